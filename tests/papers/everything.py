"""One folder with all that `--scale paper` asks its user for, made as it is asked for, and the words that name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from classify_clip.scores import METRICS
from tests.papers import checkpoints, data, networks
from tracer.quiet import quiet

PLACES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sd3": ("checkpoints/stable-diffusion-3-medium-diffusers", checkpoints.sd3_medium),
    "sdxl": ("checkpoints/stable-diffusion-xl-base-1.0", checkpoints.sdxl_base),
    "dit": ("checkpoints/DiT-XL-2-256", checkpoints.dit_xl2),
    **{
        name: (f"checkpoints/{name}", partial(checkpoints.of_the_zoo, name))
        for name in ("pixart-alpha", "pixart-sigma", "flux1", "qwen-image", "z-image", "wan21", "ltx")
    },
    "vit": ("checkpoints/vit_large_patch16_224.augreg_in21k_ft_in1k", networks.vit_l16),
    "clip": ("checkpoints/vit_base_patch32_clip_224.openai", networks.clip_folder),
    "imagenet": ("imagenet/val", data.imagenet),
    "coco": ("coco/val2017", lambda folder: data.coco_val2017(folder.parent)),
    "captions": ("coco/captions_val2017.json", lambda file: None),
    "prompts": ("geneval/evaluation_metadata.jsonl", data.geneval),
    "reference": ("reference", data.reference),
}
"""Name -> its place in the folder, and what makes it there. The captions come with COCO's pictures."""


@dataclass(frozen=True)
class Everything:
    """`path(name)` and `weights(metric)` make what is not there yet. Open `networks.tiny_architectures` around both."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file or folder of a name in `PLACES`."""
        if name == "captions":
            self.path("coco")
        if not self.place(name).exists():
            with quiet():
                PLACES[name][1](self.place(name))
        return self.place(name)

    def place(self, name: str) -> Path:
        """Where it is or will be; what lies there already is taken."""
        return self.folder / PLACES[name][0]

    def weights(self, metric: str) -> Path:
        """The weight file of a metric, by the name that its hub repository has for it."""
        source = METRICS[metric].source
        assert source is not None
        file = self.folder / "weights" / metric / source.file
        if not file.exists():
            with quiet():
                networks.WEIGHTS[metric](file.parent)
        return file


def weighed() -> list[str]:
    """The metrics that need weights."""
    return [name for name, metric in METRICS.items() if metric.source is not None]
