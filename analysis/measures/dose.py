"""The dose line: how far arms end from clean against the attention they removed, random keys and sinks apart.

Random arms of several counts, and of the sinks' mass, give each sample a line: log distance over log mass removed. The
excess of a sink arm is its distance over what that line says at the mass that the arm itself removed. If the effect
were a matter of mass alone, and a power of it, the excess would be 1. The line is a summary, not a law: how far its own
arms lie from it is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.common import runs, statistics
from analysis.measures.removal import SINK, matching

BEYOND = 1.1
"""A line is read up to this factor beyond the masses of its random arms: a mass drawn to be equal is only near."""
LINES = ("kinds", "mass")  # the controls that are never sinks


def of_lines(arms: Sequence[runs.Arm]) -> dict[str, list[str]]:
    """Sink arm -> the random arms of its line: same path, scope and dose, any count; at least two."""
    lines = {}
    for sink in (arm for arm in arms if arm.family == SINK):
        random = [arm.name for arm in arms if matching(arm) in LINES and _place(arm) == _place(sink)]
        if len(random) > 1:
            lines[sink.name] = random
    return lines


def _place(arm: runs.Arm) -> tuple[str, ...]:
    """By which path, for whom, where, when and how strongly keys are removed."""
    return str(arm.parameters["path"]), str(arm.parameters["per"]), arm.match.partition("@")[2]


def excess(
    masses: xr.DataArray,
    distances: xr.DataArray,
    lines: dict[str, list[str]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """The excess of every sink arm over the line of its random arms, along `dosed`.

    masses (removal, sample), distances (arm, sample). `excess` (bound): geometric mean over samples of the distance
    over that of the line at the same mass, with its BCa interval, of the samples whose mass lies within the random
    arms' (to a factor `BEYOND`), whose share is `inside`; NaN where that is less than half of them. `slope` (bound):
    mean exponent of the lines. `misfit`: typical factor between a random arm and its line, NaN for two arms, through
    which every line goes.
    """
    found = [_of_sink(masses, distances, sink, random, confidence, seed) for sink, random in lines.items()]
    return xr.concat(found, dim=xr.Variable("dosed", list(lines)))


def _of_sink(
    masses: xr.DataArray, distances: xr.DataArray, sink: str, random: list[str], confidence: float, seed: int
) -> xr.Dataset:
    order = ("arm", "sample")
    masses = masses.rename(removal="arm")
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = (np.log(v.sel(arm=random).transpose(*order).values.astype(float)) for v in (masses, distances))
        own_x, own_y = (np.log(v.sel(arm=sink).values.astype(float)) for v in (masses, distances))
        there = np.isfinite(x).all(0) & np.isfinite(y).all(0) & np.isfinite(own_x) & np.isfinite(own_y)
        dx = x - x.mean(0)
        slope = np.where(there, (dx * (y - y.mean(0))).sum(0) / (dx**2).sum(0), np.nan)
    slope = np.where(np.isfinite(slope), slope, np.nan)
    line = y.mean(0) + slope * (own_x - x.mean(0))
    inside = (own_x <= x.max(0) + np.log(BEYOND)) & (own_x >= x.min(0) - np.log(BEYOND))
    left = y - (y.mean(0) + slope * dx)
    logs = np.where(inside & np.isfinite(slope), own_y - line, np.nan)
    share = float(np.isfinite(logs).sum() / max(np.isfinite(slope).sum(), 1))
    if share < 0.5:
        logs = np.full(logs.shape, np.nan)
    gain, exponent = (statistics.bca(values, confidence=confidence, seed=seed) for values in (logs, slope))
    square = np.nanmean(left**2)  # NaN: samples without a slope
    misfit = np.nan if len(random) < 3 else np.exp(np.sqrt(square * len(random) / (len(random) - 2)))
    return xr.Dataset(
        {
            "excess": ("bound", np.exp(np.array([gain.low, gain.estimate, gain.high], dtype=float))),
            "slope": ("bound", np.array([exponent.low, exponent.estimate, exponent.high], dtype=float)),
            "misfit": misfit,
            "inside": share,
            "random_arms": ", ".join(random),
        },
        coords={"bound": list(statistics.BOUNDS)},
    )
