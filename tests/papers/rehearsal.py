"""A recipe at paper scale from its start to its table, in small, on folders and weights of the real formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from click.testing import CliRunner

from tests.papers.everything import Everything, weighed
from tracer.cli.main import main
from tracer.cli.reproduction.recipe import Recipe, recipes

HUB_IDS = {
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "facebook/DiT-XL-2-256": "dit",
}
"""What a recipe names -> what stands in for it."""
ON_CPU = {"device": "cpu", "dtype": "float32"}


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal printed, how it ended, and its table of published values beside ours (None without one)."""

    command: tuple[str, ...]
    told: str
    exit_code: int
    table: pd.DataFrame | None


def at_paper_scale() -> list[str]:
    """The recipes that can be run at paper scale."""
    return [name for name, recipe in recipes().items() if not recipe.none_at("paper")]


def rehearse(name: str, there: Everything, out: Path | None = None, *options: str) -> Rehearsed:
    """`trace reproduce NAME --scale paper --small`, written to `out`, by default into the folder of `there`."""
    recipe, out = recipes()[name], out or there.folder / "rehearsed" / name
    command = ["reproduce", name, "--scale", "paper", "--small", "--out", str(out), *options]
    for word, value in words(recipe, there).items():
        command += ["--with", f"{word}={value}"]
    for metric in metrics(recipe):
        command += ["--weights", f"{metric}={there.weights(metric)}"]
    done = CliRunner().invoke(main, command)
    table = out / "published.csv"
    told = done.output if done.exception is None or done.exit_code == 1 else f"{done.output}\n{done.exception!r}"
    return Rehearsed(tuple(command), told, done.exit_code, pd.read_csv(table) if table.exists() else None)


def words(recipe: Recipe, there: Everything) -> dict[str, str]:
    """What `--with` says: what the recipe needs, our folders for checkpoints of the hub, and a CPU."""
    own = {**recipe.words, **recipe.scales.get("paper", {})}
    said = {need: str(there.path(need)) for need in recipe.needs}
    said |= {word: str(there.path(HUB_IDS[value])) for word, value in own.items() if value in HUB_IDS}
    return said | {word: value for word, value in ON_CPU.items() if word in own}


def metrics(recipe: Recipe) -> list[str]:
    """The metrics with weights that its commands at paper scale name, in full or by a word."""
    own = {**recipe.words, **recipe.scales.get("paper", {})}
    text = " ".join((*recipe.commands_at("paper"), *own.values())).split()
    return [metric for metric in weighed() if metric in text]
