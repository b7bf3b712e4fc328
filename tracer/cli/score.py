"""`trace score`: networks look at a run's pictures and their scores are kept beside it, for `trace analyze quality`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from tracer.cli import completing
from tracer.cli.errors import answered
from tracer.cli.help import Command
from tracer.cli.options import STORE, as_json, dry_run, weights
from tracer.cli.terminal import human_bytes, human_seconds, print_json, progress_bar
from tracer.store.places import expanded


@click.command(
    cls=Command,
    examples=(
        "trace score  # by all metrics that need only what is shipped",
        "trace score --list",
        "trace score --metric lpips --metric clip-t --weights clip-t=open_clip_model.safetensors",
        "trace score --metric cmmd --reference val2014 --dry-run",
    ),
)
@click.argument("run_path", type=STORE, metavar="[RUN]", required=False)
@click.option("--metric", "metrics", multiple=True, metavar="METRIC",
              shell_complete=completing.names(completing.metrics), help="E.g. clip-t or lpips; default: all that "
              "need only what is shipped. Repeatable.")  # fmt: skip
@weights
@click.option("--reference", metavar="FOLDER", shell_complete=completing.paths,
              help="Pictures (at any depth) that sets such as cmmd are "
              "compared with; `held-out`: the shipped drawings.")  # fmt: skip
@click.option(
    "--device",
    metavar="DEVICE",
    shell_complete=completing.names(completing.devices),
    help="Of large networks. Default: cuda where there is one, else cpu.",
)
@click.option("--list", "listed", is_flag=True, help="List the metrics, what weights they need and which are here.")
@click.option("--expect", metavar="SIZES", help="With --dry-run, of a run that is not there yet: arms x samples x "
              "height x width of its pictures, such as 6x553x1024x1024.")  # fmt: skip
@dry_run
@as_json
def score(
    run_path: Path | None, metrics: tuple[str, ...], weights: tuple[str, ...], reference: str | None,
    device: str | None, listed: bool, expect: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure the decoded pictures of a run by metrics, and keep the scores beside it.

    What is already measured is not measured again. RUN defaults to the latest under ./runs.
    """
    with answered():
        from tracer import store
        from tracer.store.places import check_writable

        if listed:
            return list_metrics(as_json)
        if expect is not None and not dry_run:
            raise click.UsageError("--expect belongs to --dry-run: it stands for a run that is not there yet")
        if dry_run:
            where = {"reference": reference, "device": device}
            return tell_cost(run_path, expect, list(metrics) or None, paths_by_name(weights), where, as_json)
        path = store.locate(run_path)
        check_writable(path)
        measure_scores(path, metrics, weights, reference=reference, device=device)
        names = sorted(store.read_scores(path))
        if as_json:
            return print_json({"run": path, "scores": names, "folder": path / "scores"})
        click.echo(f"scores: {', '.join(names)} in {path / 'scores'}\nnext: trace analyze quality {path}")


def list_metrics(as_json: bool = False) -> None:
    """Print every metric with the weights it needs, their size, and whether they are on this machine."""
    from classify_clip.scores import METRICS
    from classify_clip.scores.weights import on_this_machine

    rows: dict[str, dict[str, object]] = {}
    for name, metric in METRICS.items():
        rows[name] = {"title": metric.title, "kind": metric.kind, "weights": None, "megabytes": 0, "here": True}
        if (source := metric.source) is None:
            continue
        files = [source] if source.beside is None else [source, source.beside]
        rows[name] |= {
            "weights": " and ".join(file.file for file in files),
            "from": " and ".join(str(file.repository or file.url) for file in files),
            "megabytes": sum(file.megabytes for file in files),
            "here": on_this_machine(source) is not None,
        }
    if as_json:
        return print_json(rows)
    for name, row in rows.items():
        needs = "no weights to fetch"
        if row["weights"]:
            needs = f"{row['weights']}, {row['megabytes']:.0f} MB, {'on this machine' if row['here'] else 'not here'}"
        click.echo(f"  {name:12} {row['title']}: {needs}")


def measure_scores(
    path: Path,
    metrics: Sequence[str] = (),
    weights: Sequence[str] = (),
    *,
    reference: str | None = None,
    device: str | None = None,
) -> None:
    """Measure what is missing of a run's scores, with a progress bar. `weights`: METRIC=PATH; else as `score`."""
    from tracer.store import local

    local(path)  # scores are written into the run
    files = paths_by_name(weights)
    from classify_clip import scores

    with progress_bar("score", "pictures") as progress:
        scores.score(path, list(metrics) or None, files, reference=reference, device=device, progress=progress)


def tell_cost(
    run: Path | None,
    expect: str | None,
    metrics: list[str] | None,
    weights: Mapping[str, str],
    where: Mapping[str, str | None],
    as_json: bool,
) -> None:
    """What measuring the missing scores would cost, or all those of a run that is not there yet."""
    from classify_clip.scores.cost import cost, cost_of_expected
    from tracer.price import peak_memory

    if expect is None:
        found = cost(run, metrics, weights, **where)
    else:
        arms, samples, height, width = sizes(expect)
        found = cost_of_expected(arms, samples, (height, width), metrics, weights, **where)
    memory = peak_memory()
    if as_json:
        return print_json({"run": run, "pictures": found.pictures, "seconds": round(found.seconds, 3),
                           "disk_bytes": found.bytes, "memory_bytes": memory})  # fmt: skip
    each = ", ".join(f"{count} pictures by {name}" for name, count in found.pictures.items()) or "nothing is missing"
    click.echo(
        f"{each}\nwould take  about {human_seconds(found.seconds)}; at most {human_bytes(found.bytes)} "
        f"on disk, about {human_bytes(memory)} of memory\nnothing was written (--dry-run)"
    )


def sizes(text: str) -> tuple[int, ...]:
    """`6x553x1024x1024` -> (arms, samples, height, width)."""
    numbers = tuple(int(part) for part in text.split("x") if part.isdigit())
    if len(numbers) != 4 or text.count("x") != 3 or not all(numbers):
        raise click.UsageError(f"--expect {text}: give arms x samples x height x width, for example 6x553x1024x1024")
    return numbers


def paths_by_name(words: Sequence[str]) -> dict[str, str]:
    """`lpips=weights.pth` -> {"lpips": "weights.pth"}."""
    from classify_clip.scores.metric import METRICS, unknown_metric

    for word in words:
        if not all(word.partition("=")):
            raise click.UsageError(f"--weights {word!r}: give METRIC=PATH, for example hps=HPS_v2.1_compressed.pt")
    named = dict(word.split("=", 1) for word in words)
    for metric in named:
        if metric not in METRICS:
            raise click.UsageError(unknown_metric("--weights", metric))
    return {metric: str(expanded(path)) for metric, path in named.items()}
