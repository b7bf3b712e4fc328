"""`trace models`: what `--model` and `--checkpoint` may name, what of each pipeline works, and where it is found."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import click

from interventions.naming import unknown
from tracer.cli.errors import answered
from tracer.cli.help import Command
from tracer.cli.options import as_json
from tracer.cli.terminal import print_json, print_table

PARTS = ("mask", "sinks", "decomposition", "null")
"""What may work of a pipeline; "all" stands for all of them."""
HOME = "tracer.denoisers.pipeline"
ROOM = 120
"""Columns of a terminal below which a table would break the names in it."""


@click.command(
    cls=Command,
    examples=("trace models", "trace models flux  # what has this in its name", "trace models --all"),
)
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@click.option("--all", "all_names", is_flag=True, help="Name the pipelines too that were not tried.")
@as_json
def models(words: tuple[str, ...], all_names: bool, as_json: bool) -> None:
    """List the models, their embedded weights, and what --checkpoint may name.

    TEXT keeps what holds it, and looks among the pipelines too that were not tried.
    """
    with answered():
        presets = [row for row in presets_listed() if _fits(row, words)]
        tried = [row for row in pipelines_tried() if _fits(row, words)]
        known = {row["pipeline"] for row in pipelines_tried()}
        wanted = all_names or words or as_json
        untried = [name for name in (_names() if wanted else ()) if name not in known and _fits({"": name}, words)]
        if as_json:
            return print_json({"models": presets, "pipelines": tried, "untried": untried})
        if not (presets or tried or untried):
            listed = [*(row["model"] for row in presets_listed()), *(row["family"] for row in pipelines_tried())]
            what = f"nothing fits {' '.join(words)}"
            raise click.UsageError(unknown(what, " ".join(words), listed, "`trace models --all` lists all there is"))
        if presets:
            _table(presets, {"model": "--model", "embedded": "embedded weights", "checkpoint": "--checkpoint"})
        if tried:
            click.echo("\nAny diffusers pipeline, by its own call; the family is read from the checkpoint:\n")
            shown = [row | {"works": _works(row)} for row in tried]
            _table(shown, {"family": "pipeline", "works": "works", "hub": "--checkpoint, for example"})
            click.echo(f"\nall: {', '.join(PARTS)}. How each was tried, and why not: docs/models.md")
        if untried:
            click.echo(f"\nIn this diffusers too, and not tried ({len(untried)}):")
            click.echo(_wrapped(untried))
        elif not words:
            click.echo("Others were not tried: `trace models --all` names them")
        if not words:
            click.echo(
                "\n`trace sweep classify --model` takes vit, vit-cls, vit-seed1 (embedded) or a timm name; "
                "`trace sweep retrieve --model` clip (embedded) or an open_clip name"
            )


def presets_listed() -> list[dict[str, str]]:
    """The families with a name of their own after --model."""
    from tracer.denoisers import MODELS
    from tracer.denoisers.checkpoints import ANY, embedded_megabytes

    rows = []
    for name in MODELS:
        size = embedded_megabytes(name)
        weights = f"{size:.1f} MB, trained on emoji" if size else "none"
        what = "any diffusers pipeline (below)" if name == ANY else MODELS[name].checkpoints
        rows.append({"model": name, "embedded": weights, "checkpoint": what})
    return rows


@cache
def pipelines_tried() -> tuple[dict[str, str], ...]:
    """Rows of what `python -m tests.zoo` found: family, pipeline, what works, hub; ids are by family, else by class."""
    ids = _data("hub_ids.json")
    blank = dict.fromkeys(("family", "pipeline", *PARTS, "hub"), "")
    rows = _data("families.json")
    return tuple(blank | {"hub": ids.get(row["family"], ids.get(row["pipeline"], ""))} | row for row in rows)


def _data(name: str) -> Any:
    file = files(HOME) / name
    return json.loads(file.read_text()) if file.is_file() else None


def _names() -> Sequence[str]:
    """All of diffusers' pipelines; none where it is not installed."""
    try:
        from tracer.denoisers.pipeline.index import pipeline_names

        return pipeline_names()
    except ModuleNotFoundError:
        return ()


def _works(row: Mapping[str, str]) -> str:
    """What works, in a word or a few."""
    if all(row[part] == "yes" for part in PARTS):
        return "all"
    parts = [part if row[part] == "yes" else f"{part} ({row[part]})" for part in PARTS if row[part] not in ("", "no")]
    return ", ".join(parts) or ("refused" if any(row[part] for part in PARTS) else "")


def _fits(row: Mapping[str, str], words: Iterable[str]) -> bool:
    text = " ".join(row.values()).lower()
    return all(word.lower() in text for word in words)


def _table(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> None:
    """A table where there is room for one, else a paragraph for each row, with names that can be copied whole."""
    import pandas as pd

    kept = {key: title for key, title in columns.items() if any(row[key] for row in rows)}
    if sys.stdout.isatty() and _width() < ROOM:
        first, *others, last = kept
        for row in rows:
            about = f"{row[first]}: {'; '.join(row[key] for key in others if row[key])}"
            click.echo(textwrap.fill(about, _width(), subsequent_indent="  "))
            click.echo("\n".join(f"  {line.strip()}" for line in row[last].split(", ")))
        return
    print_table(pd.DataFrame({title: [row[key] for row in rows] for key, title in kept.items()}))


def _width() -> int:
    return shutil.get_terminal_size().columns


def _wrapped(names: Sequence[str]) -> str:
    width = min(_width(), ROOM)
    return textwrap.fill(", ".join(names), width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
