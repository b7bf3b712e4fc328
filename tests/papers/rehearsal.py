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
    "PixArt-alpha/PixArt-XL-2-1024-MS": "pixart-alpha",
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": "pixart-sigma",
    "black-forest-labs/FLUX.1-dev": "flux1",
    "Qwen/Qwen-Image": "qwen-image",
    "Tongyi-MAI/Z-Image-Turbo": "z-image",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": "wan21",
    "Lightricks/LTX-Video": "ltx",
}
"""Hub id in a recipe -> what stands in for it."""
CHECKPOINTS = {PAPER_CLASSIFIER: "vit", networks.CLIPS[0]: "clip"}
"""Name in timm or open_clip -> its local checkpoint."""
PIXART = "--size 16x24 --call use_resolution_binning=false --call clean_caption=false --call max_sequence_length=16"
TINY = {
    "device": "cpu",
    "dtype": "float32",
    "pixart_call": PIXART,
    "sigma_call": PIXART,
    "flux_call": "--size 16x24 --call max_sequence_length=64",
    "qwen_call": "--size 16x24",
    "z_image_call": "--size 16x24 --call max_sequence_length=24",
    "wan_call": "--size 32x48 --call num_frames=9 --call max_sequence_length=16",
    "ltx_call": "--size 64x96 --call num_frames=9 --call max_sequence_length=16",
}
"""What tiny models on a CPU are asked for in place of a recipe's words."""


def at_paper_scale() -> list[str]:
    """The recipes that can be run at paper scale on what is made here."""
    return [name for name, recipe in recipes().items() if not recipe.none_at("paper")]


def command(name: str, there: Everything, out: Path) -> Sequence[str]:
    """What is typed after `trace` for a rehearsal of one recipe."""
    recipe = recipes()[name]
    given = [("--with", f"{word}={value}") for word, value in words(recipe, there).items()]
    given += [("--weights", f"{metric}={file}") for metric, file in weights(recipe, there).items()]
    return ["reproduce", name, "--scale", "paper", "--small", "--out", str(out), *chain.from_iterable(given)]


def words(recipe: Recipe, there: Everything) -> dict[str, str]:
    """What `--with` says: what the recipe needs, our folders for checkpoints of the hub, and what is tiny."""
    own = {**recipe.words, **recipe.scales.get("paper", {})}
    said = {need: str(there.path(need)) for need in recipe.needs}
    for hub_id, name in STANDS_IN.items():
        said |= {word: value.replace(hub_id, str(there.path(name))) for word, value in own.items() if hub_id in value}
    said |= {
        word: f"{value} --checkpoint {shlex.quote(str(there.path(CHECKPOINTS[value])))}"
        for word, value in own.items()
        if value in CHECKPOINTS
    }
    said |= {"reference": str(there.path("reference"))} if "reference" in own else {}  # fewer than ImageNet's 1000
    return said | {word: value for word, value in TINY.items() if word in own}


def weights(recipe: Recipe, there: Everything) -> dict[str, str]:
    """What `--weights` says: of the metrics that the commands name, in full or by a word."""
    own = {**recipe.words, **recipe.scales.get("paper", {})}
    text = " ".join((*recipe.commands_at("paper"), *own.values())).split()
    return {metric: str(there.weights(metric)) for metric in weighed() if metric in text}
