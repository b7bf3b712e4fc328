"""Constructed systems whose error accumulation is known, in exact float64 numpy.

Iterated gains, where a step multiplies the error by a known factor and adds a random injection; and the exact systems
of the table in docs/science.md as clean and masked predictions for the real tracer. No project code is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """Norms per sample, after all steps."""

    actual: np.ndarray
    null_sum: np.ndarray

    @property
    def log_amplification(self) -> np.ndarray:
        return np.log(self.actual / self.null_sum)


def iterate(clean_gain, masked_gain, push: float, steps: int, samples: int, seed: int, size: int = 16) -> Outcome:
    """Paired states x -> F(x) = clean_gain x + z and y -> G(y) = masked_gain (y - x) + clean_gain x + z + injection.

    The injection of each step is `push` times a direction that the sample keeps, plus a unit normal one of its own
    (push 0: a random walk; push inf: no random part). The null is neutral transport: the plain sum of the injections.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(samples, size))
    delta, nulls = np.zeros((samples, size)), np.zeros((samples, size))
    for _ in range(steps):
        fresh = rng.normal(size=(samples, size))
        injected = direction if np.isinf(push) else push * direction + fresh
        propagated, interaction = clean_gain * delta, (masked_gain - clean_gain) * delta
        delta = propagated + injected + interaction
        nulls = nulls + injected
    return Outcome(np.linalg.norm(delta, axis=1), np.linalg.norm(nulls, axis=1))


# --- systems for the real tracer: a clean and a masked x0-prediction D(x, alpha, sigma), elementwise in float64 ---

Denoise = Callable[[np.ndarray, float, float], np.ndarray]


@dataclass(frozen=True)
class Row:
    """What docs/science.md says of a system at one number of DDPM steps; None where it says nothing."""

    amplification: float  # A = |delta| / |N|
    feedback: float | None  # S = |y - x| / |w - x|
    systematic: float  # |N*| / |N|
    scatter: float | None  # |delta - N*|^2 / |delta|^2


@dataclass(frozen=True)
class ExactSystem:
    """A system that a denoiser can be made of, with its row of the table. `linear`: whether the clean step is."""

    name: str
    clean: Denoise
    masked: Denoise
    table: Mapping[int, Row] = field(default_factory=dict)
    linear: bool = False


SPECTRUM = np.geomspace(3.0, 0.2, 64).reshape(1, 8, 8)
"""Variances of the Gaussian systems."""
_KEPT = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def normal(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """E[x0 | x_t] of independent Gaussian pixels with variances `SPECTRUM`."""
    return alpha * SPECTRUM / (alpha**2 * SPECTRUM + sigma**2) * x


def two_peaks(steepness: float = 1.0, width: float = 0.1) -> Denoise:
    """E[x0 | x_t] of independent pixels at -1 or 1, sd `width`; no posterior mean where its argument is too steep."""

    def denoise(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        v = alpha**2 * width**2 + sigma**2
        return (alpha * width**2 * x + sigma**2 * np.tanh(steepness * alpha * x / v)) / v

    return denoise


def bump(alpha: float, sigma: float) -> float:
    """exp(-((t - 500) / 150)^2 / 2) at the training timestep t of this signal-to-noise ratio."""
    t = np.interp(-(alpha**2) / (alpha**2 + sigma**2), -_KEPT, np.arange(1000))
    return float(np.exp(-(((t - 500) / 150) ** 2) / 2))


def pushed(clean: Denoise, *, times: float = 1.0, at_middle: float = 0.0, shift: float = 0.0) -> Denoise:
    """The prediction (times + at_middle bump(t)) D + shift."""

    def masked(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        factor = times + at_middle * bump(alpha, sigma) if at_middle else times
        return factor * clean(x, alpha, sigma) + shift

    return masked


def _exact(name: str, clean: Denoise, table: dict[int, Row], **push: float) -> ExactSystem:
    return ExactSystem(name, clean, pushed(clean, **push), table, linear=clean is normal)


EXACT_SYSTEMS = (
    _exact("bimodal, shift .03", two_peaks(), {50: Row(1.94, 1, 1.003, 0.73), 250: Row(1.51, 1, 1, 0.65)}, shift=0.03),
    _exact("bimodal, shift .1", two_peaks(), {50: Row(1.45, 1, 0.995, 0.45), 250: Row(1.28, 1, 1.004, 0.35)},
           shift=0.1),
    _exact("Gaussian, shift", normal, {50: Row(1, 1, 1, 0), 250: Row(1, 1, 1, 0)}, shift=0.1),
    _exact(
        "Gaussian, 2 bump", normal, {50: Row(2.31, 2.31, 2.31, 0), 250: Row(2.49, 2.49, 2.49, 0)}, at_middle=2.0
    ),
    _exact(
        "Gaussian, 4 bump", normal, {50: Row(6.79, 6.79, 6.79, 0), 250: Row(8.82, 8.82, 8.82, 0)}, at_middle=4.0
    ),
    _exact("Gaussian, .7 D", normal, {50: Row(0.50, 0.50, 0.50, 0), 250: Row(0.39, 0.39, 0.39, 0)}, times=0.7),
    _exact(
        "bimodal, 1.1 D + .01", two_peaks(), {50: Row(1.31, 1.24, 1.10, 0.31), 250: Row(1.31, 1.32, 1.18, 0.18)},
        times=1.1, shift=0.01,
    ),
    _exact(
        "bimodal, (1 + .3 bump) D + .01", two_peaks(), {50: Row(2.44, 1.10, 1, 0.90), 250: Row(2.35, 1.06, 1, 0.90)},
        at_middle=0.3, shift=0.01,
    ),
    _exact(
        "Gaussian, 1.25 D", normal,
        {25: Row(1.66, None, 1.66, 0), 50: Row(1.98, None, 1.98, 0), 100: Row(2.37, None, 2.37, 0)}, times=1.25,
    ),
    _exact("no posterior mean, too steep", two_peaks(3.0), {50: Row(1.57, None, 1.0, None)}, shift=0.03),
    _exact("no posterior mean, too flat", two_peaks(0.4), {50: Row(1.95, None, 1.001, None)}, shift=0.03),
)  # fmt: skip
"""The table of docs/science.md, "The additive null", by name; the masks' answers follow from their rows."""
