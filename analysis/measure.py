"""What a measure is: one function of a run, with the table, the sentence and the figure that present its result.

`MEASURES` lists them by name. `trace analyze`, the report and the help texts all come from there, so a measure is added
by one file, from inside or by an entry point of another distribution. Nothing is computed or drawn here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import WRAPPER_ASSIGNMENTS
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

from interventions.errors import InputError
from interventions.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")
Presenter = TypeVar("Presenter", bound=Callable[..., Any])
Reads = Literal["run", "runs", "sweeps", "depth"]
Beyond = Literal["", "windows", "parts", "runs", "forks"]
Form = Literal["table", "sentence", "figure", "records"]


@dataclass(frozen=True)
class Option:
    """A command line option of one measure, as data: the command line makes a click option of it.

    flag: "--null". parameter: the keyword of the measure that gets the value. type: what the text is read as. choices:
    the values allowed, none for any. several: whether it may be repeated; the measure then gets a tuple.
    """

    flag: str
    parameter: str
    help: str
    type: type = str
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    several: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Measure(Generic[Parameters]):
    """A function from stored data to an `xarray.Dataset`, and its presentation; call it as the function it wraps.

    question: what it answers, in one line. reads: what it is called with: one open "run"; "runs", one or a list of
    them; "sweeps", datasets as positional arguments; "depth", one depth measurement. needs: the records that it cannot
    do without (`--record`). options: its own on the command line. on_page: whether it is a section of the report.
    beyond: what else it needs: "windows" of one mask, "parts" (windows or doses), several "runs" that differ, paths
    that "forks" made.
    """

    compute: Callable[Parameters, xr.Dataset]
    question: str
    reads: Reads = "run"
    needs: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    on_page: bool = False
    beyond: Beyond = ""
    _presenters: dict[str, Callable[..., Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Take over name, docstring and signature of the function, as `functools.update_wrapper` does."""
        for name in WRAPPER_ASSIGNMENTS:
            self.__dict__[name] = getattr(self.compute, name)
        self.__dict__["__wrapped__"] = self.compute

    @property
    def name(self) -> str:
        """The name of the function, which is the name of the measure."""
        return self.compute.__name__

    def __call__(self, *args: Parameters.args, **options: Parameters.kwargs) -> xr.Dataset:
        """Compute the measure; of runs, its attributes say what was left out (`divergence.left_out`)."""
        result = self.compute(*args, **options)
        if self.reads in ("run", "runs"):
            from analysis.common import divergence, pairing

            given = inspect.signature(self.compute).bind(*args, **options).args[0]
            result.attrs |= divergence.left_out_of(pairing.as_list(given))
        return result

    def __repr__(self) -> str:
        return f"<measure {self.name}{inspect.signature(self.compute)}>"

    def presents(self, form: Form) -> Callable[[Presenter], Presenter]:
        """Decorator for the function of a dataset that gives its table, sentence, figure or records; once for each."""

        def add(presenter: Presenter) -> Presenter:
            if form in self._presenters:
                raise InputError(f"measure {self.name!r} has its {form} already")
            self._presenters[form] = presenter
            return presenter

        return add

    def table(self, dataset: xr.Dataset) -> pd.DataFrame:
        """What the terminal shows, a row per case; with the column `diverged` where samples did."""
        return self._counted("table", dataset)

    def sentence(self, dataset: xr.Dataset) -> str:
        """What was found, in plain words with numbers and intervals, and what was left out."""
        return " ".join(filter(None, (self._presented("sentence", dataset), dataset.attrs.get("left_out"))))

    def figure(self, dataset: xr.Dataset) -> Figure:
        """The picture of it."""
        return self._presented("figure", dataset)

    def records(self, dataset: xr.Dataset) -> pd.DataFrame:
        """What the CSV holds: the table, unless the measure says more."""
        return self._counted("records" if "records" in self._presenters else "table", dataset)

    def _counted(self, form: Form, dataset: xr.Dataset) -> pd.DataFrame:
        from analysis.common import divergence

        return divergence.counted(self._presented(form, dataset), dataset.attrs)

    def _presented(self, form: str, dataset: xr.Dataset) -> Any:
        if form not in self._presenters:
            raise InputError(f"measure {self.name!r} has no {form}: add one with @{self.name}.presents({form!r})")
        return self._presenters[form](dataset)


def measure(
    question: str,
    *,
    reads: Reads = "run",
    needs: tuple[str, ...] = (),
    options: tuple[Option, ...] = (),
    on_page: bool = False,
    beyond: Beyond = "",
) -> Callable[[Callable[Parameters, xr.Dataset]], Measure[Parameters]]:
    """Decorator that makes a function of stored data a `Measure`; arguments as its fields.

    The function takes what `reads` says and returns an `xarray.Dataset`; its parameters stay as they are.
    """

    def wrap(compute: Callable[Parameters, xr.Dataset]) -> Measure[Parameters]:
        return Measure(compute, question, reads, needs, options, on_page, beyond)

    return wrap


MEASURES: Registry[Measure[...]] = Registry(
    "measure",
    {
        "verdict": "analysis.answer.verdict:verdict",
        "feedback": "analysis.measures.feedback:feedback",
        "growth": "analysis.measures.growth:growth",
        "decompose": "analysis.measures.decompose:decompose",
        "impulse": "analysis.measures.impulse:impulse",
        "counterfactual": "analysis.measures.counterfactual:counterfactual",
        "bands": "analysis.measures.bands:bands",
        "sinks": "analysis.measures.sinks:sinks",
        "anatomy": "analysis.measures.anatomy:anatomy",
        "places": "analysis.measures.places:places",
        "steps": "analysis.measures.steps:steps",
        "paths": "analysis.measures.paths:paths",
        "renoise": "analysis.measures.renoise:renoise",
        "compare": "analysis.measures.compare:compare",
        "null": "analysis.answer.null:null",
        "quality": "analysis.measures.quality:quality",
        "onset": "analysis.measures.onset:onset",
        "calibrate": "analysis.measures.calibrate:calibrate",
        "depth": "analysis.measures.depth:depth",
        "curves": "analysis.measures.curves:curves",
        "matched": "analysis.measures.matched:matched",
    },
)
"""Every measure by name, in the order of the report; a distribution adds its own in group denoise_trace.measures."""
