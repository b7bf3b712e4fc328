"""Distances between two sets of features, clean and masked, or either and a reference: MMD and Frechet.

Features come from the store; no network is needed. All are statistics of sample numbers, as `statistics.bca` wants
them, so that an interval is over samples and keeps the pairs. A reference is given and is not resampled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.common import statistics

SIGMA, SCALE = 10.0, 1000.0
"""Of CMMD's kernel, and the factor that CMMD is given in."""
RESAMPLES = 1999
Statistic = Callable[..., np.ndarray]
_ROWS = 1024  # of a reference whose kernel is summed at once


@dataclass(frozen=True)
class SetDistance:
    """A distance between sets. The functions give statistics of sample numbers [..., n] along `axis`.

    `between(clean, masked, unbiased)` is of paired features [n, d]; `against(reference, unbiased)` takes a reference
    [m, d] and gives a function of features [n, d].
    """

    between: Callable[[np.ndarray, np.ndarray, bool], Statistic]
    against: Callable[[np.ndarray, bool], Callable[[np.ndarray], Statistic]]
    interval: bool
    """Whether a bootstrap interval of it means anything; without it there is no unbiased form either."""


def distance(name: str, clean: np.ndarray, masked: np.ndarray, *, unbiased: bool = False, seed: int = 0) -> np.ndarray:
    """[low, estimate, high] of a distance in `DISTANCES` between paired features [n, d].

    The interval is BCa over jointly resampled samples; NaN limits where resampling says nothing, and no width where
    both sets are the same. All NaN where an unbiased form is asked for and there is none.
    """
    chosen = DISTANCES[name]
    if unbiased and not chosen.interval:
        return np.full(3, np.nan)
    statistic = chosen.between(clean, masked, unbiased)
    if np.array_equal(clean, masked):
        return np.full(3, float(statistic(np.arange(len(clean)))))
    return _bounds(statistic, len(clean), chosen.interval, seed)


class Reference:
    """Distances of the arms of one run to one reference, features [m, d]: `Reference("mmd", features)`."""

    def __init__(self, name: str, features: np.ndarray, *, unbiased: bool = False, seed: int = 0) -> None:
        self.chosen, self.seed = DISTANCES[name], seed
        self.there = not unbiased or self.chosen.interval
        self.against = self.chosen.against(features, unbiased) if self.there else None

    def compared(self, clean: np.ndarray, masked: np.ndarray) -> np.ndarray:
        """[3, bound]: the distance of masked features to the reference, minus that of clean ones, and relative to it.

        Features [n, d] are paired and resampled together; bound is low, estimate, high. A relative change is NaN where
        the clean distance is not positive, as an unbiased one need not be, and has no limits where its interval
        reaches 0.
        """
        if self.against is None:
            return np.full((3, 3), np.nan)
        own, twin, n = self.against(masked), self.against(clean), len(clean)
        value, clean_value = (_bounds(of, n, self.chosen.interval, self.seed) for of in (own, twin))
        if np.array_equal(clean, masked):
            return np.stack([value, np.zeros(3), np.zeros(3)])

        def difference(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
            return own(numbers, axis) - twin(numbers, axis)

        def ratio(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
            return own(numbers, axis) / twin(numbers, axis) - 1

        relative = np.full(3, np.nan)
        if clean_value[1] > 0:
            relative = _bounds(ratio, n, self.chosen.interval and bool(clean_value[0] > 0), self.seed)
        return np.stack([value, _bounds(difference, n, self.chosen.interval, self.seed), relative])


def _bounds(statistic: Statistic, n: int, interval: bool, seed: int) -> np.ndarray:
    """[low, estimate, high] of a statistic of n samples."""
    numbers = np.arange(n)
    if not interval:
        return np.array([np.nan, float(statistic(numbers)), np.nan])
    found = statistics.bca(numbers, statistic, resamples=RESAMPLES, seed=seed)
    return np.array([found.low, found.estimate, found.high])


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The Gaussian kernel exp(-|a - b|^2 / (2 10^2)) [n, m] of two sets of embeddings, in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-np.maximum(squared, 0) / (2 * SIGMA**2))


def mmd(clean: np.ndarray, masked: np.ndarray, unbiased: bool = False) -> Statistic:
    """1000 times the squared MMD of resampled pairs; of all samples 1000 (mean k_xx + mean k_yy - 2 mean k_xy).

    Both embeddings [n, d] of a sample are drawn together. With h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) -
    k(y_i, x_j) the published CMMD is the mean of h over all i, j, diagonal included: a V-statistic. Its diagonal
    h(i, i) = 2 - 2 k(x_i, y_i) is never negative and says nothing of the two distributions, so that two sets from the
    same one lie V > 0 apart: by (mean h(i, i) - mean of the rest) / n on average, which is largest where n is small.
    `unbiased` leaves the diagonal out: a U-statistic, whose mean is the squared MMD of the distributions also where x_i
    and y_i are paired, and which is negative about half of the time where these are the same.
    A sample drawn twice would add h(i, i) to the pairs of two different draws, where no real second sample gives such a
    value, and bias every replicate upwards: those pairs are left out (docs/science.md, section Statistics).
    Sources: Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation"; Gretton
    et al. 2012, "A Kernel Two-Sample Test", lemma 6 and equation 5.
    """
    cross = kernel(clean, masked)
    h = SCALE * (kernel(clean, clean) + kernel(masked, masked) - cross - cross.T)

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        return _mean_of_pairs(h, _counts(np.moveaxis(np.asarray(numbers), axis, -1), len(h)), unbiased)

    return statistic


def mmd_to(reference: np.ndarray, unbiased: bool = False) -> Callable[[np.ndarray], Statistic]:
    """1000 times the squared MMD of resampled features [n, d] to a reference [m, d], as `mmd` but not paired.

    `unbiased` leaves the diagonals of both k_xx and k_rr out, which add (1 - mean k) / n and / m to the V-statistic.
    """
    total = sum(kernel(reference[at : at + _ROWS], reference).sum() for at in range(0, len(reference), _ROWS))
    m = len(reference)
    own = (total - m) / (m * (m - 1)) if unbiased else total / m**2

    def of(features: np.ndarray) -> Statistic:
        parts = [kernel(features, reference[at : at + _ROWS]).sum(1) for at in range(0, m, _ROWS)]
        cross, h = np.sum(parts, axis=0) / m, kernel(features, features)

        def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
            counts = _counts(np.moveaxis(np.asarray(numbers), axis, -1), len(h))
            return SCALE * (_mean_of_pairs(h, counts, unbiased) + own - 2 * counts @ cross / counts.sum(-1))

        return statistic

    return of


def _mean_of_pairs(h: np.ndarray, counts: np.ndarray, unbiased: bool) -> np.ndarray:
    """Mean of h [n, n] over pairs of draws, counts [..., n]: of a draw with itself in the share 1 / draws (none where
    `unbiased`), and of different samples. Where all draws are one sample, as happens among three or four, there are
    none of these, and the mean of all pairs of h stands in.
    """
    own, drawn, n = np.diag(h), counts.sum(-1), len(h)
    whole = (h.sum() - own.sum()) / (n * (n - 1)) if n > 1 else 0.0
    pairs = drawn**2 - (counts**2).sum(-1)  # of different samples
    other = ((counts @ h) * counts).sum(-1) - counts**2 @ own
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_other = np.where(pairs > 0, other / pairs, whole)
    return mean_other if unbiased else (counts @ own / drawn + (drawn - 1) * mean_other) / drawn


def _counts(numbers: np.ndarray, n: int) -> np.ndarray:
    """How often each of n samples is drawn, float [..., n], of sample numbers [..., draws]."""
    rows = numbers.astype(np.int64).reshape(-1, numbers.shape[-1])
    flat = (rows + n * np.arange(len(rows))[:, None]).ravel()
    return np.bincount(flat, minlength=n * len(rows)).reshape(*numbers.shape[:-1], n).astype(np.float64)


def frechet(clean: np.ndarray, masked: np.ndarray, unbiased: bool = False) -> Statistic:
    """The Frechet distance as a statistic of sample numbers; only the whole set means anything (`frechet_distance`)."""

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        numbers = np.asarray(numbers).astype(np.int64)
        return np.asarray(frechet_distance(clean[numbers], masked[numbers]))

    return statistic


def frechet_to(reference: np.ndarray, unbiased: bool = False) -> Callable[[np.ndarray], Statistic]:
    """As `frechet`, to a reference [m, d] as it is."""

    def of(features: np.ndarray) -> Statistic:
        return lambda numbers, axis=-1: np.asarray(
            frechet_distance(features[np.asarray(numbers).astype(np.int64)], reference)
        )

    return of


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of features [n, d], [m, d].

    The trace of the root is the sum of singular values of X Y^T / sqrt((n - 1)(m - 1)), X and Y centred: exact also
    where the covariances lack rank, and of the size of the samples, not of the features.
    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule".
    """
    x, y = (np.asarray(part, np.float64) for part in (x, y))
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    x, y = ((part - part.mean(0)) / np.sqrt(len(part) - 1) for part in (x, y))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(mean + (x**2).sum() + (y**2).sum() - 2 * root)


DISTANCES = {
    "mmd": SetDistance(mmd, mmd_to, interval=True),
    "frechet": SetDistance(frechet, frechet_to, interval=False),
}
"""What the attribute `distance` of a stored set metric may name."""
