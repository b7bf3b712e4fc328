"""`trace score`: networks look at a run's pictures and their scores are kept beside it, for `trace analyze quality`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tracer.cli.errors import answered
from tracer.cli.options import STORE, as_json, dry_run
from tracer.cli.terminal import human_bytes, human_seconds, print_json, progress_bar
from tracer.store.places import expanded


@click.command()
@click.argument("run_path", type=STORE, metavar="[RUN]", required=False)
@click.option("--metric", "metrics", multiple=True, metavar="METRIC", help="E.g. clip-t or lpips; default: all that "
              "need only what is shipped. Repeatable.")  # fmt: skip
@click.option("--weights", multiple=True, metavar="METRIC=PATH", help="A metric's weight file or folder. Repeatable.")
@click.option("--list", "listed", is_flag=True, help="List the metrics.")
@click.option("--expect", metavar="SIZES", help="With --dry-run, of a run that is not there yet: arms x samples x "
              "height x width of its pictures, such as 6x553x1024x1024.")  # fmt: skip
@dry_run
@as_json
def score(
    run_path: Path | None,
    metrics: tuple[str, ...],
    weights: tuple[str, ...],
    listed: bool,
    expect: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure the decoded pictures of a run by metrics, and keep the scores beside it.

    What is already measured is not measured again. RUN defaults to the latest under ./runs.

    \b
    trace score --metric lpips --metric clip-t --weights clip-t=open_clip_model.safetensors
    """
    with answered():
        from tracer import store
        from tracer.store.places import check_writable

        if listed:
            from classify_clip.scores import METRICS

            if as_json:
                return print_json({name: metric.title for name, metric in METRICS.items()})
            for name, metric in METRICS.items():
                click.echo(f"  {name:12} {metric.title}")
            return
        if expect is not None:
            if not dry_run:
                raise click.UsageError("--expect belongs to --dry-run: it stands for a run that is not there yet")
            return tell_cost(run_path or Path("runs"), metrics, weights, as_json, sizes(expect))
        path = store.locate(run_path)
        check_writable(path)
        if dry_run:
            return tell_cost(path, metrics, weights, as_json)
        measure_scores(path, metrics, weights)
        names = sorted(store.read_scores(path))
        if as_json:
            return print_json({"run": path, "scores": names, "folder": path / "scores"})
        click.echo(f"scores: {', '.join(names)} in {path / 'scores'}\nnext: trace analyze quality {path}")


def measure_scores(path: Path, metrics: Sequence[str] = (), weights: Sequence[str] = ()) -> None:
    """Measure what is missing of a run's scores, with a progress bar. `weights`: METRIC=PATH."""
    from tracer.store import local

    local(path)  # scores are written into the run
    files = paths_by_name(weights)
    from classify_clip import scores

    with progress_bar("score", "arms") as progress:
        scores.score(path, list(metrics) or None, files, progress=progress)


def sizes(text: str) -> tuple[int, int, int, int]:
    """`6x553x1024x1024` -> (arms, samples, height, width)."""
    numbers = [int(part) for part in text.split("x") if part.isdigit()]
    if len(numbers) != 4 or text.count("x") != 3 or not all(numbers):
        raise click.UsageError(f"--expect {text}: give arms x samples x height x width, for example 6x553x1024x1024")
    return tuple(numbers)  # type: ignore[return-value]


def tell_cost(
    path: Path,
    metrics: Sequence[str],
    weights: Sequence[str],
    as_json: bool,
    expected: tuple[int, int, int, int] | None = None,
) -> None:
    """What measuring the missing scores would cost, or all those of an `expected` run."""
    from classify_clip.scores.cost import cost, cost_of_expected
    from tracer.price import peak_memory

    files, chosen = paths_by_name(weights), list(metrics) or None
    if expected is None:
        found = cost(path, chosen, files)
    else:
        arms, samples, *size = expected
        found = cost_of_expected(arms, samples, (size[0], size[1]), chosen, files)
    memory = peak_memory()
    if as_json:
        return print_json({"run": path, "pictures": found.pictures, "seconds": round(found.seconds, 3),
                           "disk_bytes": found.bytes, "memory_bytes": memory})  # fmt: skip
    each = ", ".join(f"{count} pictures by {name}" for name, count in found.pictures.items()) or "nothing is missing"
    click.echo(
        f"{path}: {each}\nwould take  about {human_seconds(found.seconds)}; at most {human_bytes(found.bytes)} "
        f"on disk, about {human_bytes(memory)} of memory\nnothing was written (--dry-run)"
    )


def paths_by_name(words: Sequence[str]) -> dict[str, str]:
    """`lpips=weights.pth` -> {"lpips": "weights.pth"}."""
    for word in words:
        if not all(word.partition("=")):
            raise click.UsageError(f"--weights {word!r}: give METRIC=PATH, for example hps=HPS_v2.1_compressed.pt")
    named = dict(word.split("=", 1) for word in words)
    return {metric: str(expanded(path)) for metric, path in named.items()}
