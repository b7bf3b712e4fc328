"""`trace analyze MEASURE`: every measure is a command, made from what the measure says of itself.

Listing, help and completion import no measure; what is computed, printed and drawn is `tracer.cli.analyze`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import completing
from tracer.cli.analyze import FORMATS, SCORED, analyze_runs, takes_several
from tracer.cli.errors import answered
from tracer.cli.help import Choice, Command, Group
from tracer.cli.options import OUT, STORE, as_json, weights

if TYPE_CHECKING:
    from analysis.about import About, Option
    from analysis.measure import Measure


class Measures(Group):
    """A group with one command for each measure that can be asked of runs; only the one that is used is imported."""

    names_of = "measure"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the registry."""
        from analysis import MEASURES
        from analysis.measure import about

        return [name for name in MEASURES if about(name).reads != "sweeps"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a measure."""
        return command(name) if name in self.list_commands(ctx) else None


@click.group(
    cls=Measures,
    examples=(
        "trace analyze growth",
        "trace analyze verdict runs/dit-steps/T*",
        "trace analyze growth --format svg",
    ),
)
def analyze() -> None:
    """Analyse a run: a table, one plain sentence, a figure and a CSV.

    RUN defaults to the latest under ./runs. `trace show RUN` says what can be asked of a run.
    """


class MeasureCommand(Command):
    """The command of a measure: its help says what is computed and needed, and whose an option is that it has not."""

    def __init__(self, *args: Any, needs: Sequence[str], **named: Any) -> None:
        super().__init__(*args, **named)
        self.needs = needs

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The question, the first words of the measure's docstring, which are read only now, and its records."""
        from analysis.measure import summary

        records = f"Needs --record {','.join(self.needs)}." if self.needs else ""
        about = f"What each column is: python -c 'import analysis; help(analysis.{self.name})'"
        self.help = "\n\n".join(filter(None, (self.short_help, summary(str(self.name)), records, about)))
        super().format_help_text(ctx, formatter)

    def no_option(self, flag: str, ctx: click.Context) -> str:
        """What is said of an option that this measure has not, and another may have."""
        owners = [name for name in _asked_of_runs() if flag in _flags(name)]
        if owners:
            return f"{flag} belongs to `trace analyze {owners[0]}`, not to {self.name}"
        return super().no_option(flag, ctx)


def _asked_of_runs() -> list[str]:
    return Measures().list_commands(click.Context(click.Command("analyze")))


def _flags(name: str) -> set[str]:
    from analysis.measure import about

    return {option.flag for option in about(name).options}


def command(name: str) -> click.Command:
    """The click command of one measure, from what it says of itself; its question is the short help."""
    from analysis.measure import about

    said = about(name)

    def callback(runs: tuple[Path, ...], out: Path | None, formats: tuple[str, ...], as_json: bool, **own: Any) -> None:
        from analysis import MEASURES

        options = {key: value for key, value in own.items() if value not in (None, ())}
        with answered():
            analyze_runs(MEASURES[name], runs, out, formats, options, as_json=as_json)

    params: list[click.Parameter] = [
        click.Argument(["runs"], nargs=-1, type=STORE, metavar="[RUN]..." if takes_several(said) else "[RUN]"),
        *map(_option, said.options),
        click.Option(["--out"], type=OUT, metavar="DIR", help="Where figure and table go; default: the run; of "
                     "several, the folder they are all in."),
        click.Option(["--format", "formats"], multiple=True, type=Choice(FORMATS), default=("png",),
                     show_default=True, help="Of the figure. Repeatable."),
    ]  # fmt: skip
    made = MeasureCommand(
        name,
        callback=callback,
        params=params,
        help=said.question,
        short_help=said.question,
        needs=said.needs,
        examples=lambda: examples_of(name, said),
    )
    return as_json(weights(made) if name in SCORED else made)


COMPLETERS = {"SPEC": completing.arms, "METRIC": completing.names(completing.metrics)}
"""What is offered for the value of an option, by its metavar."""


def _option(option: Option) -> click.Option:
    how: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "multiple": option.several}
    how["shell_complete"] = COMPLETERS.get(option.metavar or "")
    if option.type is bool:
        return click.Option([option.flag, option.parameter], is_flag=True, help=option.help)
    how["type"] = Choice(option.choices) if option.choices else STORE if option.type is Path else option.type
    return click.Option([option.flag, option.parameter], **how)


VALUES = {"SPEC": "R4S32", "METRIC": "pixels", "N": "3", "SHARE": "0.3"}
"""What stands in an example for the value of an option, by its metavar."""


def examples_of(name: str, said: About | Measure[...]) -> tuple[str, ...]:
    """What makes a run that has what a measure needs, the measure of it, and an option of its own."""
    asked = f"trace analyze {name}"
    if said.reads == "depth":
        return "trace sweep depth --mask R4S32", f"{asked} runs/depth"
    study = _study_for(name) if said.beyond else ""
    if study:
        first = [f"trace counterfactual {study} --mask R4S32{' --guidance 1' if 'null' in said.needs else ''}"]
        folder = f"runs/dit-{study}"
        asked += f" {folder}/*" if takes_several(said) else f" {folder}"
    elif said.beyond == "arms":
        first = ["trace run --arm cache2 --arm steps25 --steps 50"]
    elif said.beyond:
        first = ["trace run --mask R4S32 --out runs/a", "trace run --mask R4S32 --seed 100 --out runs/b"]
        asked += " runs/a runs/b"
    else:
        first = [_run_for(said.needs)]
    return (*first, asked, *(f"{asked} {option.flag} {value}" for option, value in _valued(said.options)[:1]))


def _valued(options: Sequence[Option]) -> list[tuple[Option, str]]:
    """The options that there is a value for, with it."""
    values = [(option, option.choices[0] if option.choices else VALUES.get(option.metavar or "")) for option in options]
    return [(option, value) for option, value in values if value]


def _study_for(name: str) -> str:
    """The study that makes what a measure asks for: that of its name, else the first that names it as its analysis."""
    from tracer.studies import STUDIES

    named = [study for study in STUDIES if study == name]
    return next(iter([*named, *(study for study in STUDIES if STUDIES[study].analysis == name)]), "")


def _run_for(needs: Sequence[str]) -> str:
    """A run that records these."""
    from tracer.recording import DEFAULT
    from tracer.store.records import with_brought

    if "cost" in needs:  # which comes by itself where an arm changes the network
        return "trace run --arm cache2 --arm steps10 --steps 20 --sampler ddim"
    if set(needs) <= with_brought(DEFAULT):
        return "trace run --mask R4S32"
    if "words" in needs:  # only a model with prompts has them
        return "trace run --model sd3 --mask sink-k1 --record frames,images,words"
    guidance = " --guidance 1" if {"null", "own"} & set(needs) else ""
    return f"trace run --mask R4S32{guidance} --record {','.join(need for need in needs if need != 'norms')}"
