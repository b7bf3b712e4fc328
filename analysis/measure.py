"""What a measure is: one function of a run, with the table, the sentence and the figure that present its result.

`MEASURES` lists them by name. `trace analyze`, the report and the help texts all come from there, so a measure is added
by one file, from inside or by an entry point of another distribution. Nothing is computed or drawn here.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import WRAPPER_ASSIGNMENTS
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

from analysis.about import SHIPPED, About, Beyond, Reads
from analysis.about import Option as Option
from interventions.errors import InputError
from interventions.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")
Presenter = TypeVar("Presenter", bound=Callable[..., Any])
Form = Literal["table", "sentence", "figure", "records"]


@dataclass(frozen=True, eq=False, repr=False)
class Measure(Generic[Parameters]):
    """A function from stored data to an `xarray.Dataset`, and its presentation; call it as the function it wraps.

    What the fields mean is said at `analysis.about.About`.
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
        """Compute the measure; of runs, its attributes say what was left out (`divergence.left_out`), and `noun`
        what was done to them (`nouns`).
        """
        result = self.compute(*args, **options)
        if self.reads in ("run", "runs"):
            from analysis.common import divergence, nouns, pairing

            given = inspect.signature(self.compute).bind(*args, **options).args[0]
            trees = pairing.as_list(given)
            result.attrs |= {"noun": nouns.of_runs(trees), **divergence.left_out_of(trees)}
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


def shipped(compute: Callable[Parameters, xr.Dataset]) -> Measure[Parameters]:
    """Decorator of a measure that ships; what it says of itself stands in `analysis.about`."""
    about = dict(vars(SHIPPED[compute.__name__]))
    del about["home"]
    return Measure(compute, **about)


MEASURES: Registry[Measure[...]] = Registry("measure", {name: about.home for name, about in SHIPPED.items()})
"""Every measure by name, in the order of the report; a distribution adds its own in group denoise_trace.measures."""


def about(name: str) -> About | Measure[...]:
    """What a measure says of itself; of one that ships, nothing is imported. Raises KeyError."""
    return SHIPPED.get(name) or MEASURES[name]


def summary(name: str) -> str:
    """The first paragraph of a measure's docstring; of one that ships read from its file, which is not run."""
    if name not in SHIPPED:
        doc = inspect.getdoc(MEASURES[name].compute) or ""
    else:
        module, _, function = SHIPPED[name].home.partition(":")
        file = files(module.rpartition(".")[0]) / f"{module.rpartition('.')[2]}.py"
        body = ast.parse(file.read_text(encoding="utf-8")).body
        found = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == function)
        doc = ast.get_docstring(found) or ""
    return doc.partition("\n\n")[0]
