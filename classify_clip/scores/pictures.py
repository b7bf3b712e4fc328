"""The decoded pictures of a run, arm by arm, with what each sample was asked to show. Nothing is measured here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from classify_clip.scores.weights import ScoreError
from interventions.errors import RunError
from tracer import store

CLEAN, FULL = "clean", "full"


@dataclass(frozen=True)
class Pictures:
    """Complete samples of a run. `classes` (of prompts: their tags) and `prompts` are None where the run has none."""

    images: xr.DataArray  # (arm, sample, image_y, image_x, rgb), lazy
    replays: xr.DataArray | None  # the same of the replayed arms; None where they were not recorded
    classes: tuple[str, ...] | None
    prompts: tuple[str, ...] | None
    asked: np.ndarray  # bool [arm, sample]: whether the arm is run on it; the floor is on the first few only
    frames: xr.DataArray | None
    """(arm, sample, frame_step, frame_y, frame_x, rgb): pictures of the predictions at some steps, lazy."""
    embedded: bool
    """Whether the run's model is one of the shipped ones, so that the shipped judge and CLIP know its pictures."""
    device: str | None = None
    """Where large networks look at them; None for CUDA where there is one, else the CPU."""

    @property
    def arms(self) -> list[str]:
        """Names of the arms, clean first."""
        return [str(arm) for arm in self.images["arm"].values]

    @property
    def replayed(self) -> list[str]:
        """Names of the arms that have pictures of their replay."""
        return [] if self.replays is None else [str(arm) for arm in self.replays["arm"].values]

    @property
    def samples(self) -> np.ndarray:
        """Sample numbers, as the run names them."""
        return self.images["sample"].values

    @property
    def size(self) -> tuple[int, int]:
        """(y, x) in pixels."""
        return self.images.sizes["image_y"], self.images.sizes["image_x"]

    @property
    def frame_steps(self) -> list[int]:
        """The steps whose predictions are shown; none where they were not recorded."""
        return [] if self.frames is None else [int(step) for step in self.frames["frame_step"].values]

    def of(self, arm: str) -> np.ndarray:
        """Bool [sample]: on which samples the arm is run."""
        return self.asked[self.arms.index(arm)]

    def arm(self, name: str) -> np.ndarray:
        """uint8 [sample, y, x, 3] of one arm, read now; black where it is not run."""
        return _pixels(self.images, self.arms.index(name))

    def replay(self, name: str) -> np.ndarray:
        """uint8 [sample, y, x, 3] of the replay of one arm, read now."""
        assert self.replays is not None
        return _pixels(self.replays, self.replayed.index(name))

    def frame(self, name: str, step: int) -> np.ndarray:
        """uint8 [sample, y, x, 3] of one arm's prediction in one of `frame_steps`, read now."""
        assert self.frames is not None
        return _pixels(self.frames.sel(frame_step=step), self.arms.index(name))

    def only(self, positions: np.ndarray) -> Pictures:
        """The pictures of the samples at these positions."""
        return replace(
            self,
            images=self.images.isel(sample=positions),
            asked=self.asked[:, positions],
            replays=None if self.replays is None else self.replays.isel(sample=positions),
            frames=None if self.frames is None else self.frames.isel(sample=positions),
            classes=None if self.classes is None else tuple(self.classes[k] for k in positions),
            prompts=None if self.prompts is None else tuple(self.prompts[k] for k in positions),
        )


def _pixels(images: xr.DataArray, arm: int) -> np.ndarray:
    return images.isel(arm=arm).transpose("sample", ..., "rgb").values.astype(np.uint8)


def pictures_of(run: xr.DataTree) -> Pictures:
    """The pictures of the samples that every arm completed that is run on them.

    Raises ScoreError for a run without pictures, RunError where no sample is complete.
    """
    if "images" not in run.children or "image" not in run["images"].data_vars:
        raise ScoreError("this run holds no pictures: record them with `trace run ... --record norms,images`")
    images = run["images"].to_dataset()
    status = run["status"].fillna(store.STATUS_MISSING).transpose("arm", "sample").values
    complete = np.flatnonzero(np.isin(status, (store.STATUS_COMPLETE, store.STATUS_UNASKED)).all(axis=0))
    if complete.size == 0:
        raise RunError(
            "no sample of this run is complete in every arm: let it finish, or resume it with `trace run ... --resume`"
        )
    images = images.isel(sample=complete)
    texts = {
        name: tuple(map(str, images.coords[name].values))
        for name in ("class_name", "tag", "prompt")
        if name in images.coords
    }
    checkpoint = json.loads(run.attrs["config"]).get("checkpoint", {})
    return Pictures(
        images=images["image"],
        replays=images["replay"].isel(arm=_replayed(images)) if "replay" in images else None,
        frames=images.get("frame"),
        asked=status[:, complete] != store.STATUS_UNASKED,
        classes=texts.get("class_name", texts.get("tag")),
        prompts=texts.get("prompt"),
        embedded=str(checkpoint.get("id", "")).startswith("embedded"),
    )


def _replayed(images: xr.Dataset) -> list[int]:
    """Positions of the arms whose replay was painted: neither the clean one nor the floor."""
    return [place for place, arm in enumerate(images["arm"].values.tolist()) if arm not in (CLEAN, FULL)]
