"""Distances between two sets of features, clean and masked, with both resampled by sample: MMD and Frechet.

Features come from the store; no network is needed. Both are statistics of sample numbers, as `statistics.bca` wants
them, so that an interval is over samples and keeps the pairs.
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


@dataclass(frozen=True)
class SetDistance:
    """`between(clean, masked)` of features [n, d] is a statistic of sample numbers [..., n] along `axis`."""

    between: Callable[[np.ndarray, np.ndarray], Statistic]
    interval: bool
    """Whether a bootstrap interval of it means anything."""


def distance(name: str, clean: np.ndarray, masked: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """[low, estimate, high] of a distance in `DISTANCES` between paired features [n, d].

    The interval is BCa over jointly resampled samples; NaN limits where resampling says nothing, and no width where
    both sets are the same.
    """
    chosen, numbers = DISTANCES[name], np.arange(len(clean))
    statistic = chosen.between(clean, masked)
    point = float(statistic(numbers))
    if np.array_equal(clean, masked):
        return np.full(3, point)
    if not chosen.interval:
        return np.array([np.nan, point, np.nan])
    interval = statistics.bca(numbers, statistic, resamples=RESAMPLES, seed=seed)
    return np.array([interval.low, interval.estimate, interval.high])


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The Gaussian kernel exp(-|a - b|^2 / (2 10^2)) [n, m] of two sets of embeddings, in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-np.maximum(squared, 0) / (2 * SIGMA**2))


def mmd(clean: np.ndarray, masked: np.ndarray) -> Statistic:
    """1000 times the squared MMD of resampled pairs; of all samples 1000 (mean k_xx + mean k_yy - 2 mean k_xy).

    Both embeddings [n, d] of a sample are drawn together. With h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) -
    k(y_i, x_j) the MMD is the mean of h over all i, j, diagonal included. A sample drawn twice would add h(i, i) to the
    pairs of two different draws, where no real second sample gives such a value, and bias every replicate upwards:
    those pairs are left out (docs/science.md, section Statistics).
    Source: Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation".
    """
    cross = kernel(clean, masked)
    h = SCALE * (kernel(clean, clean) + kernel(masked, masked) - cross - cross.T)
    own = np.diag(h).copy()

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        counts = _counts(np.moveaxis(np.asarray(numbers), axis, -1).astype(np.int64), len(h))
        drawn = counts.sum(-1)
        pairs = drawn**2 - (counts**2).sum(-1)  # of different samples
        other = ((counts @ h) * counts).sum(-1) - counts**2 @ own
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_other = np.where(pairs > 0, other / pairs, 0.0)
        return (counts @ own / drawn + (drawn - 1) * mean_other) / drawn

    return statistic


def _counts(numbers: np.ndarray, n: int) -> np.ndarray:
    """How often each of n samples is drawn, float [..., n], of sample numbers [..., draws]."""
    rows = numbers.reshape(-1, numbers.shape[-1])
    flat = (rows + n * np.arange(len(rows))[:, None]).ravel()
    return np.bincount(flat, minlength=n * len(rows)).reshape(*numbers.shape[:-1], n).astype(np.float64)


def frechet(clean: np.ndarray, masked: np.ndarray) -> Statistic:
    """The Frechet distance as a statistic of sample numbers; only the whole set means anything (`frechet_distance`)."""

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        numbers = np.asarray(numbers).astype(np.int64)
        return np.asarray(frechet_distance(clean[numbers], masked[numbers]))

    return statistic


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of features [n, d], [m, d].

    The trace of the root is the sum of singular values of X Y^T / sqrt((n - 1)(m - 1)), X and Y centred: exact also
    where the covariances lack rank, and of the size of the samples, not of the features.
    Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule".
    """
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    x, y = ((part - part.mean(0)) / np.sqrt(len(part) - 1) for part in (x, y))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(mean + (x**2).sum() + (y**2).sum() - 2 * root)


DISTANCES = {"mmd": SetDistance(mmd, interval=True), "frechet": SetDistance(frechet, interval=False)}
"""What the attribute `distance` of a stored set metric may name."""
