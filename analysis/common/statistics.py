"""Bootstrap intervals, multiplicity, equivalence tests, effect sizes and sample sizes, for values paired by sample.

Everything works on plain arrays whose last axis (or named dimension) is the sample, the unit of all our inference.
Nothing here knows what the values mean: the margins and the rule that decide are in `rule.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import special, stats

from analysis.common.replicates import left_out, replicates

RESAMPLES = 9999
FEWEST_SAMPLES = 3
BOUNDS = ("low", "estimate", "high")
"""The coordinate `bound` of every interval."""


@dataclass(frozen=True)
class Interval:
    """A point estimate and its confidence limits; floats for one series, arrays for several."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: `p_low` against "at or below -margin", `p_high` against "at or above", `p` the larger."""

    p: float | np.ndarray
    p_low: float | np.ndarray
    p_high: float | np.ndarray


def bca(
    values: ArrayLike,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    confidence: float | Sequence[float] = 0.95,
    resamples: int = RESAMPLES,
    seed: int | np.random.Generator = 0,
    axis: int = -1,
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval over samples, of any number of series at once.

    `values` [..., sample] (the sample axis is `axis`); `statistic(values, axis=...)` reduces it. The result has the
    remaining shape; with several levels of `confidence` the limits have a last axis more, and are nested. All series
    share the resampled indices, so bands over steps or arms are paired.
    NaN policy: samples that are NaN are left out, series by series; fewer than 3 left give NaN limits around the
    estimate (NaN for an empty series). A constant series gets an interval of zero width. Where BCa does not exist
    (all replicates on one side of the estimate) the percentile limits stand in.
    Raises ValueError for infinite values, for no sample axis, and for a confidence outside (0, 1).
    Source: Efron 1987, "Better bootstrap confidence intervals", JASA 82; checked against scipy.
    """
    levels = tuple(confidence) if isinstance(confidence, Sequence) else (confidence,)
    estimate, limits = _limits(values, statistic, levels, resamples, seed, axis)
    if isinstance(confidence, Sequence):
        return Interval(estimate, limits[..., 0], limits[..., 1])
    low, high = limits[..., 0, 0], limits[..., 0, 1]
    if estimate.ndim == 0:
        return Interval(float(estimate), float(low), float(high))
    return Interval(estimate, low, high)


def intervals(
    values: xr.DataArray,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    dim: str = "sample",
    confidence: Sequence[float] = (0.90, 0.95),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.DataArray:
    """BCa intervals of a labelled array: the dimension `dim` gives way to (confidence, bound).

    `bound` is low, estimate, high; the levels of `confidence` share one set of resamples, so they are nested.
    Other dimensions and their coordinates are kept. NaN policy, raises and source as in `bca`.
    """
    others = [name for name in values.dims if name != dim]
    array = values.transpose(*others, dim)
    interval = bca(array.values, statistic, confidence=tuple(confidence), resamples=resamples, seed=seed)
    middle = np.broadcast_to(np.asarray(interval.estimate)[..., None], np.shape(interval.low))
    coords = {name: coord for name, coord in array.coords.items() if dim not in coord.dims}
    return xr.DataArray(
        np.stack([interval.low, middle, interval.high], axis=-1),
        dims=[*others, "confidence", "bound"],
        coords={**coords, "confidence": list(confidence), "bound": list(BOUNDS)},
        name=values.name,
    )


def _limits(
    values: ArrayLike,
    statistic: Callable[..., np.ndarray],
    confidence: tuple[float, ...],
    resamples: int,
    seed: int | np.random.Generator,
    axis: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates [...] and limits [..., confidence, 2], grouped by which samples are missing."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[axis] == 0:
        raise ValueError("a bootstrap needs at least one sample along the sample axis")
    if any(not 0 < level < 1 for level in confidence):
        raise ValueError(f"confidence must lie between 0 and 1, for example 0.95; got {confidence}")
    if np.isinf(array).any():
        raise ValueError(f"{int(np.isinf(array).sum())} values are infinite: leave those samples out first")
    array = np.moveaxis(array, axis, -1)
    series = array.reshape(-1, array.shape[-1])
    estimate = np.full(len(series), np.nan)
    limits = np.full((len(series), len(confidence), 2), np.nan)
    patterns, members = np.unique(np.isnan(series), axis=0, return_inverse=True)
    for index, missing in enumerate(patterns):
        rows = np.flatnonzero(members.reshape(-1) == index)
        present = series[np.ix_(rows, np.flatnonzero(~missing))]
        if present.shape[-1] == 0:
            continue
        estimate[rows] = statistic(present, axis=-1)
        if present.shape[-1] >= FEWEST_SAMPLES:
            limits[rows] = _complete_limits(present, estimate[rows], statistic, confidence, resamples, seed)
    shape = array.shape[:-1]
    return estimate.reshape(shape), limits.reshape(*shape, len(confidence), 2)


def _complete_limits(
    series: np.ndarray,
    estimate: np.ndarray,
    statistic: Callable[..., np.ndarray],
    confidence: tuple[float, ...],
    resamples: int,
    seed: int | np.random.Generator,
) -> np.ndarray:
    """Limits [series, confidence, 2] of series without missing samples."""
    limits = np.repeat(estimate[:, None, None], len(confidence), axis=1).repeat(2, axis=2)
    varied = np.flatnonzero(np.ptp(series, axis=-1) > 0)
    if varied.size == 0:
        return limits
    present, middle = series[varied], estimate[varied, None]
    drawn = np.sort(replicates(present, statistic, resamples, np.random.default_rng(seed)), axis=-1)
    below = ((drawn < middle).mean(-1) + (drawn <= middle).mean(-1)) / 2
    tails = np.array([[(1 - level) / 2, (1 + level) / 2] for level in confidence])  # [confidence, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = left_out(present, statistic)
        apart = apart.mean(-1, keepdims=True) - apart
        acceleration = (apart**3).sum(-1) / (6 * (apart**2).sum(-1) ** 1.5)
        bias = special.ndtri(below)[:, None, None]
        z = bias + special.ndtri(tails)
        corrected = special.ndtr(bias + z / (1 - acceleration[:, None, None] * z))
    exists = np.isfinite(corrected).all(-1, keepdims=True)
    limits[varied] = _quantiles(drawn, np.where(exists, corrected, tails))
    return limits


def _quantiles(ordered: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Quantiles [series, ...] of sorted values [series, value], linear between them; shares [series, ...]."""
    place = shares * (ordered.shape[-1] - 1)
    lower = np.floor(place).astype(int)
    upper, row = np.ceil(place).astype(int), np.arange(len(ordered)).reshape(-1, *[1] * (shares.ndim - 1))
    return ordered[row, lower] + (place - lower) * (ordered[row, upper] - ordered[row, lower])


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjust p-values [test] for the number of tests, step-down; any shape, adjusted over all entries.

    NaN entries (tests that could not be made) stay NaN and do not count. Raises ValueError outside [0, 1].
    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p-values must lie in [0, 1]")
    adjusted = np.full(p.shape, np.nan)
    made = ~np.isnan(p)
    values = p[made]
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    unsorted = np.empty_like(values)
    unsorted[order] = np.minimum(steps, 1.0)
    adjusted[made] = unsorted
    return adjusted


def p_above(values: ArrayLike, bound: float = 0.0, axis: int = -1) -> float | np.ndarray:
    """One-sided p-value of "the mean is at or below `bound`" (one-sample t test over samples)."""
    return _t_p(np.asarray(values, dtype=np.float64), bound, "greater", axis)


def p_below(values: ArrayLike, bound: float = 0.0, axis: int = -1) -> float | np.ndarray:
    """One-sided p-value of "the mean is at or above `bound`" (one-sample t test over samples)."""
    return _t_p(np.asarray(values, dtype=np.float64), bound, "less", axis)


def _t_p(values: np.ndarray, bound: float, side: str, axis: int) -> float | np.ndarray:
    """As `scipy.stats.ttest_1samp`, many times as fast; a constant series is decided by its value, not NaN."""
    n, sign = values.shape[axis], 1 if side == "greater" else -1
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        t = (values.mean(axis=axis) - bound) / np.sqrt(values.var(axis=axis, ddof=1) / n)
    p = np.asarray(special.stdtr(n - 1, -sign * t))
    mean = values.mean(axis=axis)
    beyond = mean > bound if side == "greater" else mean < bound
    constant = (np.ptp(values, axis=axis) == 0) & (values.shape[axis] > 1)
    p = np.where(constant, np.where(beyond, 0.0, 1.0), p)
    return float(p) if p.ndim == 0 else p


def tost(values: ArrayLike, margin: float, other: ArrayLike | None = None, axis: int = -1) -> Equivalence:
    """Two one-sided t tests that a mean, or with `other` a mean paired difference, lies inside +-`margin`.

    `values` and `other` [..., sample], same shape. A small `p` is evidence FOR equivalence: the only support that a
    "no effect" claim gets here. Raises ValueError for a margin that is not positive or for shapes that do not pair.
    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure"; agrees with statsmodels.
    """
    if not margin > 0:
        raise ValueError(f"the margin of an equivalence test must be positive; got {margin}")
    difference = _paired(values, other)
    p_low = p_above(difference, -margin, axis)
    p_high = p_below(difference, margin, axis)
    p = np.maximum(p_low, p_high)
    return Equivalence(float(p) if np.ndim(p) == 0 else p, p_low, p_high)


def effect_size(values: ArrayLike, other: ArrayLike | None = None, axis: int = -1) -> float | np.ndarray:
    """Paired effect size d_z: mean difference over its standard deviation across samples (ddof 1).

    `values` and `other` [..., sample]; without `other`, `values` are the differences. A constant difference of 0 gives
    0, any other constant gives +-inf; one sample gives NaN. Source: Cohen 1988, section 2.3.5.
    """
    difference = _paired(values, other)
    mean = difference.mean(axis=axis)
    if difference.shape[axis] < 2:
        return np.full_like(mean, np.nan) if np.ndim(mean) else math.nan
    sd = np.where(np.ptp(difference, axis=axis) == 0, 0.0, difference.std(axis=axis, ddof=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        d = np.where((sd == 0) & (mean == 0), 0.0, mean / sd)
    return float(d) if d.ndim == 0 else d


def _paired(values: ArrayLike, other: ArrayLike | None) -> np.ndarray:
    first = np.asarray(values, dtype=np.float64)
    if other is None:
        return first
    second = np.asarray(other, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values need one shape; got {first.shape} and {second.shape}")
    return first - second


def samples_for_equivalence(sd: float, margin: float, power: float = 0.90, alpha: float = 0.05) -> int:
    """Samples that an equivalence test needs when the true difference is 0.

    n = (z[1-alpha] + z[1-(1-power)/2])^2 (sd / margin)^2, which is 10.8 (sd / margin)^2 at 90% power; at least 3.
    Raises ValueError for a negative sd, a margin that is not positive, or probabilities outside (0, 1).
    Source: Schuirmann 1987; normal approximation.
    """
    _check_design(sd, margin, power, alpha)
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf(1 - (1 - power) / 2)
    return max(FEWEST_SAMPLES, math.ceil((z * sd / margin) ** 2))


def samples_for_bound(sd: float, distance: float, power: float = 0.90, alpha: float = 0.025) -> int:
    """Samples with which a one-sided test at level `alpha` finds a mean that lies `distance` beyond its bound.

    n = (z[1-alpha] + z[power])^2 (sd / distance)^2; at least 3. Raises ValueError as `samples_for_equivalence`.
    """
    _check_design(sd, distance, power, alpha)
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf(power)
    return max(FEWEST_SAMPLES, math.ceil((z * sd / distance) ** 2))


def _check_design(sd: float, distance: float, power: float, alpha: float) -> None:
    if not (sd >= 0 and distance > 0):
        raise ValueError(f"sd must not be negative and the margin must be positive; got {sd} and {distance}")
    if not (0 < power < 1 and 0 < alpha < 1):
        raise ValueError(f"power and alpha must lie between 0 and 1; got {power} and {alpha}")
