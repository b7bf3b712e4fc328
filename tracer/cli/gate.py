"""`trace gate`: is an arm good enough? Reads or makes runs, scores what is missing, judges; answers by exit code.

Nothing is computed here: the run is `tracer.run`, scores `classify_clip.scores`, answers `analysis.gate`. What is
judged goes to the standard output, everything else to the standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tracer.cli import completing
from tracer.cli.errors import answered
from tracer.cli.help import Choice, Command
from tracer.cli.options import HEADINGS, OUT, STORE, as_json, dry_run, option, request_options, weights
from tracer.cli.terminal import print_json, progress_bar, working
from tracer.request import parameters

if TYPE_CHECKING:
    import xarray as xr

    from analysis.gating.gate import Gate

SAMPLES, RECORD = 24, ("norms", "images")
"""Of a run that the gate makes, where nothing else is said."""
EXIT = {True: 0, False: 1, None: 3}
"""Whether the gate passed -> exit status."""
ASKED = "Gate"
OWN = ("require", "metrics", "distance", "margin", "weights", "markdown", "as_json", "dry_run")
FOR_BOTH = ("arms", "device")
"""Options of a run that say something of a stored one, too."""
DISTANCE = "pixels"
"""What tells whether the picture is the same, where no named metric does: it fits any run."""
SMALLEST = 64
"""Pixels on the shorter side of pictures that metrics with weights of their own are asked of unnamed."""


def own_defaults(command: Callable) -> Callable:
    """The options of a run whose default is another here."""
    for name, default in (("record", RECORD), ("samples", SAMPLES)):
        command = option(name, replace(parameters()[name], default=default))(command)
    return command


@click.command(
    cls=Command,
    headings={
        ASKED: OWN,
        **{name: tuple(each for each in every if each not in OWN) for name, every in HEADINGS.items()},
    },
    examples=(
        "trace gate runs/dit-R4S32  # all arms of a run",
        "trace gate --mask R4S32 --samples 48 --markdown gate.md  # run, score and judge",
        "trace gate runs/dit-R4S32 --require same-picture --json",
        "trace gate runs/dit-R4S32 --metric lpips --metric clip-t --margin picture=0.05",
    ),
)
@click.argument("run_paths", nargs=-1, type=STORE, metavar="[RUN]...")
@click.option("--require", type=Choice(("same-quality", "same-picture")), default="same-quality", show_default=True,
              help="What every arm must be at least.")  # fmt: skip
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="METRIC",
    shell_complete=completing.names(completing.metrics),
    help="Judge by this one, e.g. lpips or clip-t; default: all that fit and whose weights are on this machine. "
    "Repeatable.",
)
@click.option(
    "--distance",
    metavar="METRIC",
    shell_complete=completing.names(completing.metrics),
    help="Tells whether the picture is the same; default: lpips where it is scored, else pixels.",
)
@click.option(
    "--margin",
    multiple=True,
    metavar="KIND=VALUE",
    shell_complete=completing.margins,
    help="The largest loss that passes: picture, score, share or set. Repeatable.",
)
@weights
@click.option("--markdown", type=OUT, metavar="FILE", help="Write the table for a pull request; - prints it in place "
              "of the text.")  # fmt: skip
@dry_run
@as_json
@own_defaults
@request_options("record", "samples")
@click.pass_context
def gate(
    ctx: click.Context, run_paths: tuple[Path, ...], require: str, metrics: tuple[str, ...], distance: str | None,
    margin: tuple[str, ...], weights: tuple[str, ...], markdown: Path | None, dry_run: bool, as_json: bool,
    **typed: Any,
) -> None:  # fmt: skip
    """Judge arms against clean: same picture / same quality, other picture / worse / undecided.

    RUN is read and what is missing of its scores is measured; with --mask and no RUN a run is made first, with any
    option of `trace run`. Neither: the latest run under ./runs.

    Exit status: 0 every arm is at least what --require says; 1 one is not; 3 none fails, one is undecided; 2 the
    command is wrong. A run that fails is 1, too, without a table.
    """
    with answered():
        from analysis.gating.margins import margins_with
        from tracer.cli.score import paths_by_name
        from tracer.store.places import check_file

        allowed = margins_with(_margins(margin))
        files = paths_by_name(weights)
        if markdown is not None and str(markdown) != "-":
            check_file(markdown)
        given = {name for name in typed if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
        if dry_run or (typed["arms"] and not run_paths):
            paths = made(typed, run_paths, dry_run=dry_run, as_json=as_json)
            if paths is None:
                return
            arms: tuple[str, ...] = ()
        else:
            paths, arms = read(run_paths, given), typed["arms"]
        for path in paths:
            score_run(path, paths, metrics, distance, files, typed["device"])
        judged = judge(paths, arms, require, metrics, distance, allowed)
        tell(judged, paths, markdown, as_json=as_json)
    raise SystemExit(EXIT[judged.passed])


def made(typed: Mapping[str, Any], runs: Sequence[Path], *, dry_run: bool, as_json: bool) -> list[Path] | None:
    """The run that is asked for, made now; None where only its cost was told."""
    from tracer.cli.run import checked_plans, loading, start, tell_costs
    from tracer.request import Request

    if runs or not typed["arms"]:
        raise click.UsageError("--dry-run tells what a run would cost: name at least one --mask, and no RUN")
    record = typed["record"]
    kept = record.split(",") if isinstance(record, str) else list(record)
    kept += [] if {"images", "default", "all"} & set(kept) else ["images"]
    request = Request(**{**typed, "record": ",".join(kept)})
    with loading(request):
        (checked,) = checked_plans([request])
    if dry_run:
        tell_costs([checked], as_json)
        return None
    return [start(checked, to_stderr=True)]


def read(runs: Sequence[Path], given: set[str]) -> list[Path]:
    """The runs that are named, else the latest. Raises UsageError for options of a run that is made."""
    from tracer import store

    if foreign := sorted(given - set(FOR_BOTH)):
        flags = ", ".join(str(parameters()[name].flag).partition("/")[0] for name in foreign)
        what = f"{runs[0]} is read as it is" if runs else "no --mask is named, so no run is made"
        raise click.UsageError(f"{flags}: an option of a run that the gate makes, and {what}; leave out one of them")
    return [store.locate(path) for path in runs] or [store.latest_run()]


def score_run(
    path: Path, every: Sequence[Path], metrics: Sequence[str], distance: str | None, weights: Mapping[str, str],
    device: str | None,
) -> None:  # fmt: skip
    """Measure what is missing of a run's scores; where that is not possible, what is there must do.

    Not possible: no sample is complete, the run may not be written, or what looks at pictures is not installed.
    """
    from tracer import store
    from tracer.cli.analyze import check_metric
    from tracer.store.places import check_writable

    for name in (*metrics, *([distance] if distance else [])):
        check_metric(name, every)
    if not _any_complete(path):
        return
    try:
        check_writable(path, "scores are kept in the run; copy it to where you may write, and name the copy")
        _measure(path, metrics, distance, weights, device)
    except (store.RunError, ModuleNotFoundError):
        if not store.read_scores(path):
            raise


def _measure(
    path: Path, metrics: Sequence[str], distance: str | None, weights: Mapping[str, str], device: str | None
) -> None:
    """Scores by the metrics named, with a distance to clean beside them, and how far apart unrelated pictures are.

    Without a metric: what `trace score` measures, and the metrics whose weights are here or named.
    """
    from classify_clip.scores.unrelated import add_unrelated
    from tracer.cli.score import measure_scores

    asked, words = [*metrics], [f"{name}={file}" for name, file in weights.items()]
    if distance is not None:
        asked.append(distance)
    elif metrics and not _any_distance(metrics):
        asked.append(DISTANCE)
    if not metrics:
        measure_scores(path, (), words, device=device)
        asked += _here(path, weights)
    if asked:
        measure_scores(path, list(dict.fromkeys(asked)), words, device=device)
    with progress_bar("unrelated pictures", "pictures") as progress:
        add_unrelated(path, weights, device=device, progress=progress)


def _any_distance(metrics: Sequence[str]) -> bool:
    """Whether one of these compares pictures with their clean twins."""
    from classify_clip.scores import METRICS

    return any(METRICS[name].kind == "to clean" for name in metrics if name in METRICS)


def _here(path: Path, weights: Mapping[str, str]) -> list[str]:
    """Metrics with weights of their own that can be measured: the weights are here or named, and they fit the run."""
    from classify_clip.scores import METRICS
    from classify_clip.scores.pictures import pictures_of
    from classify_clip.scores.weights import on_this_machine
    from tracer import store

    pictures = pictures_of(store.open_run(path))
    found = []
    for name, metric in METRICS.items():
        if metric.source is None or metric.distance == "frechet" or metric.lacks(pictures) is not None:
            continue
        small = min(pictures.size) < SMALLEST
        if name in weights or (not small and on_this_machine(metric.source) is not None):
            found.append(name)
    return found


def _any_complete(path: Path) -> bool:
    """Whether some sample has pictures of every arm; where arms diverged in all samples, none has."""
    from analysis.common import divergence
    from tracer import store

    status = divergence.outcome(store.open_run(path)).status
    return bool(((status == divergence.COMPLETE) | (status == divergence.UNASKED)).all(axis=0).any())


def judge(
    paths: Sequence[Path], arms: Sequence[str], require: str, metrics: Sequence[str], distance: str | None,
    margins: Mapping[str, float],
) -> Gate:  # fmt: skip
    """The answers for these runs."""
    import analysis
    from tracer import store

    opened: dict[object, xr.DataTree] = {str(path): store.open_run(path) for path in dict.fromkeys(paths)}
    with working(f"gate: {', '.join(map(str, opened))}"):
        return analysis.gate(
            opened, arms or None, require=require, metrics=metrics or None, distance=distance, margins=margins
        )


def tell(judged: Gate, paths: Sequence[Path], markdown: Path | None, *, as_json: bool) -> None:
    """Print and write what was asked for."""
    from tracer.store.durable import replacing

    table = judged.markdown() + "\n"
    to_stdout = markdown is not None and str(markdown) == "-"
    if markdown is not None and not to_stdout:
        with replacing(markdown) as aside:
            aside.write_text(table, encoding="utf-8")
    if as_json:
        return print_json({**judged.data(), "exit": EXIT[judged.passed], "markdown": table})
    click.echo(table if to_stdout else str(judged), nl=not to_stdout)
    if markdown is not None and not to_stdout:
        click.echo(f"table: {markdown}")


def _margins(words: Sequence[str]) -> dict[str, float]:
    """`picture=0.05` -> {"picture": 0.05}."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise click.UsageError(f"--margin {word!r}: give KIND=VALUE, for example picture=0.05") from None
    return found
