"""How `trace reproduce` is told of our folders and weights: a recipe at paper scale, in small, on a CPU."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from classify_clip.models import PAPER_CLASSIFIER
from tests.papers import networks
from tests.papers.everything import Everything, weighed
from tracer.cli.reproduction.recipe import Recipe, recipes

STANDS_IN = {
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "facebook/DiT-XL-2-256": "dit",
}
"""Hub id in a recipe -> what stands in for it."""
CHECKPOINTS = {PAPER_CLASSIFIER: "vit", networks.CLIPS[0]: "clip"}
"""Name in timm or open_clip -> its local checkpoint."""
ON_CPU = {"device": "cpu", "dtype": "float32"}


def at_paper_scale() -> list[str]:
    """The recipes that can be run at paper scale."""
    return [name for name, recipe in recipes().items() if not recipe.none_at("paper")]


def command(name: str, there: Everything, out: Path) -> Sequence[str]:
    """What is typed after `trace` for a rehearsal of one recipe."""
    recipe = recipes()[name]
    given = [("--with", f"{word}={value}") for word, value in words(recipe, there).items()]
    given += [("--weights", f"{metric}={file}") for metric, file in weights(recipe, there).items()]
    return ["reproduce", name, "--scale", "paper", "--small", "--out", str(out), *chain.from_iterable(given)]


def words(recipe: Recipe, there: Everything) -> dict[str, str]:
    """What `--with` says: what the recipe needs, our folders for checkpoints of the hub, and a CPU."""
    own = {**recipe.words, **recipe.scales.get("paper", {})}
    said = {need: str(there.path(need)) for need in recipe.needs}
    said |= {word: str(there.path(STANDS_IN[value])) for word, value in own.items() if value in STANDS_IN}
    said |= {
        word: f"{value} --checkpoint {shlex.quote(str(there.path(CHECKPOINTS[value])))}"
        for word, value in own.items()
        if value in CHECKPOINTS
    }
    said |= {"reference": str(there.path("reference"))} if "reference" in own else {}  # fewer than ImageNet's 1000
    return said | {word: value for word, value in ON_CPU.items() if word in own}


def weights(recipe: Recipe, there: Everything) -> dict[str, str]:
    """What `--weights` says: of the metrics that the commands name, in full or by a word."""
    own = {**recipe.words, **recipe.scales.get("paper", {})}
    text = " ".join((*recipe.commands_at("paper"), *own.values())).split()
    return {metric: str(there.weights(metric)) for metric in weighed() if metric in text}
