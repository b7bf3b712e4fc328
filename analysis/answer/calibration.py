"""What noise paths of one start say of the clean network: the slope of the error on its own-path sum.

Units are starts, resampled with all their paths. Sums and shares over starts are here too; the rule that judges the
slope's product with the systematic amplification is `rule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from analysis.answer.margins import CALIBRATION, CONFIDENCE
from analysis.common import statistics
from analysis.common.resampling import Resampled, resample

SMALLEST = 1e-6  # stands for a calibration slope that is not positive
NO_PATHS, BLIND, KEPT, UNCERTAIN, DEPARTS = (
    "not measured", "no part predictable from x_T", "as of a posterior mean", "not shown", "no posterior mean",
)  # fmt: skip
"""What can be said of the calibration slope."""


@dataclass(frozen=True)
class How:
    """The bootstrap's settings."""

    resamples: int
    seed: int


def slope_on_own(gram: np.ndarray | None, group: np.ndarray, how: How) -> tuple[str, Resampled | None]:
    """What is known of the slope of delta on N* across paths, and the slope, over the starts that have several.

    gram [2, sample] as in `rule.decide`, group [sample] the number of the start. Both Gram sums must have a jackknife
    lower limit (95%) above 0, else x_T predicts no part of the error. Source: docs/science.md, "Propagation: the
    own-path sum".
    """
    if gram is None or not (paired := np.isfinite(gram).all(axis=0)).any():
        return NO_PATHS, None
    sums = start_sums(gram[:, paired], group[paired])
    if sums.shape[1] < statistics.FEWEST_SAMPLES:
        return NO_PATHS, None
    if not (_jackknife_low(sums) > 0).all():
        return BLIND, None
    value = resample(lambda drawn: quotient(sums, drawn), sums.shape[1], resamples=how.resamples, seed=how.seed)
    low, high = value.interval(0.95)
    if low > CALIBRATION[0] and high < CALIBRATION[1]:
        return KEPT, value
    return (DEPARTS if low > CALIBRATION[1] or high < CALIBRATION[0] else UNCERTAIN), value


def gram_low(gram: ArrayLike, starts: ArrayLike) -> np.ndarray:
    """Jackknife lower limits (95%) of the two Gram sums over their absolute means; NaN without paths. See `decide`."""
    array = np.asarray(gram, dtype=np.float64)
    paired = np.isfinite(array).all(axis=0)
    if not paired.any():
        return np.full(2, np.nan)
    sums = start_sums(array[:, paired], group_of(np.asarray(starts)[paired], array[0, paired]))
    return _jackknife_low(sums) / np.abs(sums.mean(axis=1))


def _jackknife_low(sums: np.ndarray) -> np.ndarray:
    """Lower 95% limits of the means of sums [2, start]; NaN for fewer than 3 starts."""
    starts = sums.shape[1]
    if starts < statistics.FEWEST_SAMPLES:
        return np.full(2, np.nan)
    return sums.mean(axis=1) - stats.t.ppf(0.975, starts - 1) * sums.std(axis=1, ddof=1) / math.sqrt(starts)


# --- units ---


def limits(value: Resampled | None) -> np.ndarray:
    """[confidence, bound] on the scale that is judged; NaN for what is not known."""
    if value is None:
        return np.full((len(CONFIDENCE), len(statistics.BOUNDS)), np.nan)
    return np.array([[low, value.estimate, high] for low, high in map(value.interval, CONFIDENCE)])


def labelled(bounds: np.ndarray) -> xr.DataArray:
    """Limits [confidence, bound] with their coordinates."""
    coords = {"confidence": list(CONFIDENCE), "bound": list(statistics.BOUNDS)}
    return xr.DataArray(bounds, dims=("confidence", "bound"), coords=coords)


def share(part: ArrayLike, whole: ArrayLike, starts: ArrayLike, *, seed: int = 0) -> xr.DataArray:
    """Sum of a part over that of the whole, both [sample], with limits over starts: (confidence, bound).

    Samples that lack either (NaN) are left out; NaN limits for fewer than 3 starts, all NaN where nothing is left.
    """
    pairs = np.stack([np.asarray(part, np.float64), np.asarray(whole, np.float64)])
    known = np.isfinite(pairs).all(axis=0)
    if not known.any() or not pairs[1, known].sum() > 0:
        return labelled(limits(None))
    sums = start_sums(pairs[:, known], group_of(np.asarray(starts)[known], pairs[0, known]))
    value = resample(lambda drawn: sums[0][drawn].sum(-1) / sums[1][drawn].sum(-1), sums.shape[1], seed=seed)
    return labelled(limits(value))


def group_of(starts: ArrayLike | None, *measured: np.ndarray | None) -> np.ndarray:
    """Number of the start of each sample; one start a sample where `starts` is None."""
    sizes = {each.size for each in measured if each is not None}
    if len(sizes) > 1:
        raise ValueError(f"log_feedback and log_systematic are of the same samples; got {sorted(sizes)} values")
    size = next(iter(sizes), 0)
    if starts is None or not size:
        return np.arange(size)
    names = np.asarray(starts)
    if names.shape != (size,):
        raise ValueError(f"starts names the start of each of {size} samples; got shape {names.shape}")
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]  # in the order of their first samples, whatever they are called


def start_sums(gram: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Gram sums [2, start]; a start without several paths counts as 0."""
    alone = np.where(np.isnan(gram), 0.0, gram)
    return np.stack([alone[:, group == start].sum(axis=1) for start in np.unique(group)], axis=1)


def quotient(sums: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Slope from the Gram sums [2, start] of the drawn starts [..., start].

    `SMALLEST` where it does not exist; that of all starts where no start with several paths was drawn.
    """
    top, bottom = sums[0][drawn].sum(-1), sums[1][drawn].sum(-1)
    nothing = ~(sums[1] != 0)[drawn].any(-1)
    top, bottom = np.where(nothing, sums[0].sum(), top), np.where(nothing, sums[1].sum(), bottom)
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), SMALLEST)
