"""What `trace analyze MEASURE` does with a run, and `trace report`; its commands are `tracer.cli.measures`.

Table and sentence are printed; figure and CSV go beside the run. It computes nothing itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.errors import answered
from tracer.cli.files import save_figure
from tracer.cli.help import Command
from tracer.cli.options import OUT, STORE, as_json
from tracer.cli.terminal import frame_as_data, print_json, print_table, with_index, working
from tracer.store.places import nearest_path

if TYPE_CHECKING:
    import xarray as xr

    from analysis.about import About
    from analysis.measure import Measure

MOST_ROWS = 40  # of a table on the terminal
FORMATS = ("png", "svg", "pdf")
SCORED = ("quality", "calibrate")
"""The measures that read scores; what is missing of them is measured first."""


def takes_several(measure: About | Measure[...]) -> bool:
    """Whether a measure compares runs."""
    return measure.reads == "runs"


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
    from tracer.command import with_command
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
        for metric in options.get("metrics", ()):
            check_metric(metric, paths)
        if measure.name in SCORED:
            weights = options.pop("weights", ())
            for path in paths:
                score_first(path, options.get("metrics", ()), weights)
        opened = [with_command(store.open_run(path)) for path in paths]
    options = {
        name: store.open_run(store.locate(value)) if isinstance(value, Path) else value
        for name, value in options.items()
    }
    click.echo(f"run: {', '.join(map(str, paths))}", err=True)
    with working(f"{measure.name}: {', '.join(map(size_of, opened))}"):
        result = measure(opened if len(opened) > 1 else opened[0], **options)
    show(measure, result, folder, paths, formats, as_json=as_json)


def size_of(opened: xr.DataTree | xr.Dataset) -> str:
    """What is analysed, in a few words."""
    if "status" not in opened:
        return "one measurement"
    sizes = opened["status"].sizes
    steps = json.loads(opened.attrs["config"]).get("steps", "?")
    return f"{sizes['sample']} samples x {sizes['arm']} arms x {steps} steps"


def check_metric(name: str, paths: Sequence[Path]) -> None:
    """Raise UsageError for a metric that is none of ours, and by which none of these runs is scored."""
    from classify_clip.scores.metric import METRICS, unknown_metric
    from tracer import store

    if name not in METRICS and not any(name in store.read_scores(path) for path in paths):
        raise click.UsageError(unknown_metric("--metric", name))


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
    figures = [folder / f"{measure.name}.{suffix}" for suffix in formats]
    with working(f"{measure.name}: drawing the figure"):
        figure = measure.figure(result)
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
        meant = f"did you mean {near}? " if (near := nearest_path(folder)) else ""
        raise click.UsageError(f"no depth measurement at {file}: {meant}make one with `trace sweep depth --mask R4S32`")
    return xr.open_dataset(readable(file), engine="scipy")


@click.command(
    cls=Command,
    examples=("trace report", "trace report runs/dit-R4S32 runs/dit-R0S63 --out both.html"),
)
@click.argument("runs", nargs=-1, type=STORE, metavar="[RUN]...")
@click.option("--out", type=OUT, metavar="FILE", help="Default: report.html in the run; of several, in their folder.")
@as_json
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page about a run, or about several side by side.

    RUN defaults to the latest under ./runs.
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
