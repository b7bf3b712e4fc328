"""Which mask is the primary one: fixed before any run by its density, not by what came out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from analysis.common import runs

DENSITY = (0.20, 0.30)
PARAMETERS = {"radius": 4, "shortcuts": 32}  # R4S32, where the masks were not recorded


def primary_cell(several: Iterable[xr.DataTree], masks: list[str]) -> str:
    """The small-world mask nearest to 25% density (20 to 30%), by the masks recorded over image tokens; "" for none."""
    candidates: dict[str, float] = {}
    for run in several:
        for arm in runs.arms(run):
            if arm.mask in masks and arm.mask not in candidates and _is_small_world(arm):
                candidates[arm.mask] = _density(run, arm)
    low, high = DENSITY
    near = [mask for mask in masks if mask in candidates and low <= candidates[mask] <= high]
    return min(near, key=lambda mask: abs(candidates[mask] - 0.25), default="")


def _density(run: xr.DataTree, arm: runs.Arm) -> float:
    if not runs.has(run, "interventions/mask"):
        return 0.25 if arm.parameters == PARAMETERS else 1.0
    allowed = np.asarray(run["interventions"]["mask"].sel(arm=arm.name), dtype=bool)
    image = ~allowed.all(axis=1)  # text and prefix rows are open
    return float(allowed[image][:, image].mean()) if image.any() else 1.0


def _is_small_world(arm: runs.Arm) -> bool:
    """Whether an arm is a small-world mask of all layers with both a ball and shortcuts, over the whole run."""
    both = arm.parameters.get("radius", 0) >= 1 and arm.parameters.get("shortcuts", 0) >= 1
    return arm.family == "small-world" and arm.whole and not arm.layers and both
