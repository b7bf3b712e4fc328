"""Distances from clean to masked features that tasks share: squared MMD, and the shift in units of their spread.

Both compare a model with its own clean self in its own feature space, so a drop of accuracy in one task and a drift of
pictures in another can stand on one axis. Arrays in, float64 out; intervals are analysis, which has the resampled MMD.
"""

from __future__ import annotations

import numpy as np

SIGMA = 10.0
SCALE = 1000.0


def mmd2(x: np.ndarray, y: np.ndarray, sigma: float = SIGMA) -> float:
    """1000 times the biased squared MMD of unit vectors x [n, d], y [m, d] under exp(-|a-b|^2 / (2 sigma^2)).

    Kernel, sigma and factor are CMMD's (Jayasumana et al. 2024); the embedding is whatever the caller uses, so values
    compare within one embedding only. At sigma 10 on the unit sphere it is close to 10 |mean x - mean y|^2.
    """
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    return float(SCALE * (_kernel_mean(x, x, sigma) + _kernel_mean(y, y, sigma) - 2 * _kernel_mean(x, y, sigma)))


def _kernel_mean(x: np.ndarray, y: np.ndarray, sigma: float, block: int = 1024) -> float:
    total = 0.0
    for start in range(0, len(x), block):
        part = x[start : start + block]
        square = (part**2).sum(1)[:, None] + (y**2).sum(1) - 2 * part @ y.T
        total += np.exp(-np.maximum(square, 0) / (2 * sigma**2)).sum()
    return total / (len(x) * len(y))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def shift(clean: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Fraction of variance unexplained of each sample: |masked - clean|^2 over the total variance of clean; [n].

    Its square root is the shift in standard deviations. Features [n, d]; the variance is over samples, summed over d.
    """
    clean, masked = np.asarray(clean, np.float64), np.asarray(masked, np.float64)
    variance = ((clean - clean.mean(0)) ** 2).sum(-1).mean()
    return ((masked - clean) ** 2).sum(-1) / variance


def unrelated(clean: np.ndarray, masked: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Where `shift` saturates: mean squared distance of each masked sample to the *other* clean ones, same units; [n].

    group: only others of the same group count, as where a model is told the class; NaN for a sample alone in its group.
    Without groups the mean over the clean samples is 2 n / (n - 1), whatever the features are.
    """
    clean, masked = np.asarray(clean, np.float64), np.asarray(masked, np.float64)
    variance = ((clean - clean.mean(0)) ** 2).sum(-1).mean()
    square = ((masked**2).sum(1)[:, None] + (clean**2).sum(1) - 2 * masked @ clean.T) / variance
    others = ~np.eye(len(clean), dtype=bool)
    if group is not None:
        others &= np.asarray(group)[:, None] == np.asarray(group)
    count = others.sum(1)
    return np.where(count > 0, np.maximum(square, 0).sum(1, where=others) / np.maximum(count, 1), np.nan)
