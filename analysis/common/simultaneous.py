"""A confidence band that covers all series at once, for means over samples that are compared at many places.

Intervals made one by one each miss in 5%, so the first place where one excludes 0 comes too early. Here the largest
deviation over all places is controlled. Nothing here knows what the series are.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.common.statistics import FEWEST_SAMPLES

DRAWS = 20_000


def critical_value(values: np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> float:
    """How many standard errors the band of the means of values [sample, series] reaches to either side.

    The quantile of max |T| over the series, T multivariate t with n - 1 degrees of freedom and the correlation of the
    samples, found by simulation; of one series, or of series that are all alike, it is Student's. Series that do not
    vary do not count. NaN below 3 samples or where none varies.
    Source: Hothorn, Bretz and Westfall 2008, "Simultaneous inference in general parametric models".
    """
    values = np.asarray(values, np.float64)
    varied = values[:, np.ptp(values, axis=0) > 0]
    if len(values) < FEWEST_SAMPLES or varied.shape[1] == 0:
        return math.nan
    centred = varied - varied.mean(0)
    directions = centred / np.linalg.norm(centred, axis=0)
    _, sizes, axes = np.linalg.svd(directions, full_matrices=False)
    rng, free = np.random.default_rng(seed), len(values) - 1
    deviations = np.abs(rng.standard_normal((DRAWS, len(sizes))) @ (sizes[:, None] * axes)).max(1)
    return float(np.quantile(deviations / np.sqrt(rng.chisquare(free, DRAWS) / free), confidence))


def band(values: np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> np.ndarray:
    """[low, estimate, high] of the means of values [sample, series], for all series at once: [series, 3].

    A series that does not vary has no width. NaN limits below 3 samples.
    """
    values = np.asarray(values, np.float64)
    mean = values.mean(0)
    if len(values) < FEWEST_SAMPLES:
        return np.stack([np.full_like(mean, np.nan), mean, np.full_like(mean, np.nan)], axis=-1)
    error = np.where(np.ptp(values, axis=0) > 0, values.std(0, ddof=1), 0.0) / math.sqrt(len(values))
    reach = error * np.nan_to_num(  # NaN: no series varies, and none has a width
        critical_value(values, confidence=confidence, seed=seed)
    )
    return np.stack([mean - reach, mean, mean + reach], axis=-1)
