"""Iterated gains as denoisers for the real tracer: every DDPM step multiplies an error by a factor known beforehand.

An error is measured in the prediction that it changes, d = D_{k+1}(G(x)) - D_{k+1}(F(x)), where a posterior mean
neither amplifies nor absorbs. Predictions are multiples c_k of the state, solved for backwards so that the clean step
multiplies D by `gain`. The mask adds a field of its own to each d_k and may multiply the error further. No code of the
program is used.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tests.ground_truth import gaussian
from tests.ground_truth.constructed import Denoise

SHAPE = (1, 8, 8)
LAST = 0.5
"""c of the last prediction: data about as wide as the last noise, so that contracting gains leave every c positive."""


@dataclass(frozen=True)
class Iterated:
    """A clean step of `gain`, a masked one of `masked_gain` (None: the same), and how the pushes hang together.

    coherent: one direction for all steps; else a fresh one for each, the same for all samples.
    """

    steps: int
    gain: float = 1.0
    masked_gain: float | None = None
    coherent: bool = True

    @functools.cached_property
    def schedule(self) -> gaussian.Schedule:
        return gaussian.ddpm(self.steps)

    @functools.cached_property
    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """p and q [step] of the step's mean x' = p x + q D (Ho et al. 2020, equation 7)."""
        kept = (self.schedule.alpha / self.schedule.alpha_after) ** 2
        share = (1 - kept) / self.schedule.sigma**2
        return (1 - share) / np.sqrt(kept), share * self.schedule.alpha_after

    @functools.cached_property
    def multiples(self) -> np.ndarray:
        """c_k [step + 1] with c_{k+1} (p_k + q_k c_k) = gain c_k; the last entry is the final state's own, 1."""
        p, q = self.factors
        c = np.append(np.zeros(self.steps), 1.0)
        c[self.steps - 1] = LAST if self.gain else 0.0
        for k in range(self.steps - 2, -1, -1):
            c[k] = c[k + 1] * p[k] / (self.gain - c[k + 1] * q[k]) if self.gain else -p[k] / q[k]
        return c

    @functools.cached_property
    def pushes(self) -> np.ndarray:
        """What the mask adds to d_k by itself, [step, 1, 8, 8]: far larger than the states' own predictions."""
        shape = SHAPE if self.coherent else (self.steps, *SHAPE)
        return np.broadcast_to(100 * np.random.default_rng(0).standard_normal(shape), (self.steps, *SHAPE))

    def clean(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        return self.multiples[self._step(alpha)] * x

    def masked(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        k, (p, q), c = self._step(alpha), self.factors, self.multiples
        multiple = c[k] if self.masked_gain is None else (self.masked_gain * c[k] / c[k + 1] - p[k]) / q[k]
        following = c[k + 1] or 1.0  # a memoryless network's prediction that sees nothing: no d_k, whatever is pushed
        return multiple * x + self.pushes[k] / (following * q[k])

    def on_paper(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Final y - x, final w - x and N [1, 8, 8], leaving out what the clean states add to the pushes."""
        gains = np.full(self.steps, float(self.gain))
        gains[-1] = 1.0 if self.gain else 0.0  # the last step lands on its prediction
        pushes = np.where(self.multiples[1:, None, None, None] == 0, 0, self.pushes)
        delta = replay = np.zeros(SHAPE)
        for k in range(self.steps):
            delta = (gains[k] if self.masked_gain is None else self.masked_gain) * delta + pushes[k]
            replay = gains[k] * replay + pushes[k]
        return delta, replay, pushes.sum(0)

    def _step(self, alpha: float) -> int:
        return int(abs(self.schedule.alpha - alpha).argmin())


def stretching(gain: float, steps: int) -> tuple[Denoise, Denoise]:
    """Clean and masked prediction of a DDIM sampler whose clean step multiplies every state by `gain`; fixed pushes."""
    schedule = gaussian.ddim(steps)
    q = gaussian.injection_factor(schedule)
    p = schedule.sigma_after / schedule.sigma

    def clean(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        k = int(abs(schedule.alpha - alpha).argmin())
        return (gain - p[k]) / q[k] * x

    def masked(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        k = int(abs(schedule.alpha - alpha).argmin())
        return clean(x, alpha, sigma) + 0.03 / q[k]

    return clean, masked
