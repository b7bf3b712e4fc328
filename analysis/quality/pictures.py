"""The decoded pictures of a run, arm by arm, with what each sample was asked to show. Nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.common import runs
from analysis.quality.weights import QualityError


@dataclass(frozen=True)
class Pictures:
    """Complete samples of a run. `classes` (of prompts: their tags) and `prompts` are None where the run has none."""

    images: xr.DataArray  # (arm, sample, image_y, image_x, rgb), lazy
    classes: tuple[str, ...] | None
    prompts: tuple[str, ...] | None
    embedded: bool
    """Whether the run's model is one of the shipped ones, so that the shipped judge and CLIP know its pictures."""

    @property
    def arms(self) -> list[str]:
        """Names of the arms, clean first."""
        return [str(arm) for arm in self.images["arm"].values]

    @property
    def size(self) -> tuple[int, int]:
        """(y, x) in pixels."""
        return self.images.sizes["image_y"], self.images.sizes["image_x"]

    def arm(self, name: str) -> np.ndarray:
        """uint8 [sample, y, x, 3] of one arm, read now."""
        chosen = self.images.isel(arm=self.arms.index(name)).transpose("sample", "image_y", "image_x", "rgb")
        return chosen.values.astype(np.uint8)


def pictures_of(run: xr.DataTree) -> Pictures:
    """The pictures of a run. Raises QualityError for a run without pictures, runs.RunError without whole samples."""
    run = runs.complete(run)
    if not runs.has(run, "images/image"):
        raise QualityError("this run holds no pictures: record them with `trace run ... --record norms,images`")
    coords = run["images"].to_dataset().coords
    texts = {name: tuple(map(str, coords[name].values)) for name in ("class_name", "tag", "prompt") if name in coords}
    checkpoint = runs.configuration(run).get("checkpoint", {})
    return Pictures(
        images=run["images"].to_dataset()["image"],
        classes=texts.get("class_name", texts.get("tag")),
        prompts=texts.get("prompt"),
        embedded=str(checkpoint.get("id", "")).startswith("embedded"),
    )
