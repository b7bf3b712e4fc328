"""`trace analyze MEASURE` and `trace report`: every measure is a command, made from what the measure says of itself.

Table and sentence are printed; figure and CSV go beside the run. It computes nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.errors import answered
from tracer.cli.files import save_figure
from tracer.cli.options import OUT, STORE, as_json
from tracer.cli.terminal import frame_as_data, print_json, print_table, with_index

if TYPE_CHECKING:
    import xarray as xr

    from analysis.measure import Measure, Option

MOST_ROWS = 40  # of a table on the terminal
FORMATS = ("png", "svg", "pdf")
SCORED = ("quality", "calibrate")
"""The measures that read scores; what is missing of them is measured first."""
WEIGHTS = click.Option(
    ["--weights"], multiple=True, metavar="METRIC=PATH", help="A metric's weight file or folder. Repeatable."
)


class Measures(click.Group):
    """A group with one command for each measure that can be asked of runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the registry."""
        from analysis import MEASURES

        return [name for name in MEASURES if MEASURES[name].reads != "sweeps"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a measure."""
        from analysis import MEASURES

        return command(MEASURES[name]) if name in MEASURES and MEASURES[name].reads != "sweeps" else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click; a word that is no measure is answered with the names and what was probably meant."""
        from analysis import MEASURES

        with answered():
            if args and not args[0].startswith("-"):
                MEASURES.get_or_raise(args[0])
        return super().resolve_command(ctx, args)


@click.group(cls=Measures)
def analyze() -> None:
    """Analyse a run: a table, one plain sentence, a figure and a CSV.

    RUN defaults to the latest under ./runs.

    \b
    trace analyze growth
    trace analyze verdict runs/dit-steps/T*
    """


class MeasureCommand(click.Command):
    """A command that says to which measure an option belongs, where it is not its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click."""
        from analysis import MEASURES

        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            flag = error.option_name
            owners = [name for name in MEASURES if flag in {option.flag for option in MEASURES[name].options}]
            owners = [name for name in owners if MEASURES[name].reads != "sweeps"]
            if not owners:
                raise
            raise click.UsageError(f"{flag} belongs to `trace analyze {owners[0]}`, not to {self.name}", ctx) from None


def command(measure: Measure[...]) -> click.Command:
    """The click command of one measure: its question as the short help, its docstring and needs as the long one."""

    def callback(runs: tuple[Path, ...], out: Path | None, formats: tuple[str, ...], as_json: bool, **own: Any) -> None:
        options = {key: value for key, value in own.items() if value not in (None, ())}
        with answered():
            analyze_runs(measure, runs, out, formats, options, as_json=as_json)

    weights = [WEIGHTS] if measure.name in SCORED else []
    shown = "[RUN]..." if takes_several(measure) else "[RUN]"
    params: list[click.Parameter] = [
        click.Argument(["runs"], nargs=-1, type=STORE, metavar=shown),
        *map(_option, measure.options), *weights,
        click.Option(["--out"], type=OUT, metavar="DIR", help="Where figure and table go; default: the run; of "
                     "several, the folder they are all in."),
        click.Option(["--format", "formats"], multiple=True, type=click.Choice(FORMATS), default=("png",),
                     show_default=True, help="Of the figure. Repeatable."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object: the sentence and the table."),
    ]  # fmt: skip
    records = f"\n\nNeeds `--record {','.join(measure.needs)}`." if measure.needs else ""
    help_text = f"{measure.question}\n\n\b\n{(measure.__doc__ or '').strip()}{records}"
    return MeasureCommand(measure.name, callback=callback, params=params, help=help_text, short_help=measure.question)


def takes_several(measure: Measure[...]) -> bool:
    """Whether a measure compares runs."""
    return measure.reads == "runs"


def _option(option: Option) -> click.Option:
    how: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "multiple": option.several}
    if option.type is bool:
        return click.Option([option.flag, option.parameter], is_flag=True, help=option.help)
    how["type"] = click.Choice(option.choices) if option.choices else option.type
    return click.Option([option.flag, option.parameter], **how)


def analyze_runs(
    measure: Measure[...],
    runs: Sequence[Path],
    out: Path | None,
    formats: Sequence[str],
    options: dict[str, Any],
    *,
    as_json: bool = False,
) -> None:
    """Compute one measure of stored runs with its own `options`; print, draw and write what it gives."""
    from tracer import store
    from tracer.store.places import check_folder

    if len(runs) > 1 and not takes_several(measure):
        raise click.UsageError(f"`trace analyze {measure.name}` takes one run; {len(runs)} were given")
    if measure.reads == "depth":
        paths = list(runs) or [Path("runs/depth")]
        opened: list[Any] = [open_depth(paths[0])]
    else:
        paths = [store.locate(path) for path in runs] or [store.latest_run()]
    folder = store.local(out or common_folder(paths))
    check_folder(folder)
    if measure.reads != "depth":
        if measure.name in SCORED:
            weights = options.pop("weights", ())
            for path in paths:
                score_first(path, options.get("metrics", ()), weights)
        opened = [store.open_run(path) for path in paths]
    click.echo(f"run: {', '.join(map(str, paths))}", err=True)
    result = measure(opened if len(opened) > 1 else opened[0], **options)
    show(measure, result, folder, paths, formats, as_json=as_json)


def common_folder(paths: Sequence[Path]) -> Path:
    """The run itself, or the folder that all these runs are in."""
    if len(set(paths)) == 1:
        return paths[0]
    absolute = Path(os.path.commonpath([str(path.absolute()) for path in paths]))
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def score_first(path: Path, metrics: Sequence[str], weights: Sequence[str]) -> None:
    """Let networks measure what is asked for and not stored yet; what is stored needs none of them."""
    from tracer import store
    from tracer.cli.score import measure_scores
    from tracer.store.places import check_writable

    stored = store.read_scores(path)
    if weights or not stored or set(metrics) - stored.keys():
        check_writable(path, "scores are kept in the run; copy it to where you may write, and name the copy")
        measure_scores(path, metrics, weights)


def show(
    measure: Measure[...],
    result: xr.Dataset,
    folder: Path,
    paths: Sequence[Path],
    formats: Sequence[str] = ("png",),
    *,
    as_json: bool = False,
) -> None:
    """Print table and sentence of a result of these runs; write its figure and CSV into `folder`."""
    import matplotlib

    from tracer.store.durable import replacing

    matplotlib.use("agg")
    shown, sentence = measure.table(result), measure.sentence(result)
    if not as_json:
        print_table(shown, MOST_ROWS)
        click.echo(f"\n{sentence}")
    folder.mkdir(parents=True, exist_ok=True)
    figure = measure.figure(result)
    figures = [folder / f"{measure.name}.{suffix}" for suffix in formats]
    for file in figures:
        save_figure(figure, file)
    table, records = folder / f"{measure.name}.csv", with_index(measure.records(result))
    with replacing(table) as aside:
        records.to_csv(aside, index=False)
    if as_json:
        found = {"measure": measure.name, "runs": paths, "sentence": sentence, "table": frame_as_data(shown)}
        return print_json({**found, "figures": figures, "csv": table})
    click.echo(f"\nfigure: {', '.join(map(str, figures))}\ntable:  {table}")


def open_depth(folder: Path) -> xr.Dataset:
    """What `trace sweep depth` measured."""
    import xarray as xr

    from tracer.store import readable

    file = folder / "depth.nc"
    if not file.is_file():
        raise click.UsageError(f"no depth measurement at {file}: make one with `trace sweep depth --mask R4S32`")
    return xr.open_dataset(readable(file), engine="scipy")


@click.command()
@click.argument("runs", nargs=-1, type=STORE, metavar="[RUN]...")
@click.option("--out", type=OUT, metavar="FILE", help="Default: report.html in the run; of several, in their folder.")
@as_json
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page about a run, or about several side by side.

    RUN defaults to the latest under ./runs.

    \b
    trace report
    trace report runs/dit-R4S32 runs/dit-R0S63 --out both.html
    """
    with answered():
        import matplotlib

        matplotlib.use("agg")
        from analysis import report as page
        from tracer import store
        from tracer.command import with_command
        from tracer.store.durable import replacing
        from tracer.store.places import check_file

        paths = [store.locate(path) for path in runs] or [store.latest_run()]
        target = store.local(out or common_folder(paths) / "report.html")
        check_file(target)
        opened = [with_command(store.open_run(path)) for path in paths]
        text = page(opened if len(opened) > 1 else opened[0])
        with replacing(target) as aside:
            aside.write_text(text, encoding="utf-8")
        if as_json:
            return print_json({"runs": paths, "report": target})
        click.echo(f"report: {target}")
