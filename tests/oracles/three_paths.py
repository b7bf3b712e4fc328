"""The clean, the masked and the replayed path of one run, and its three sums, in float64 numpy from given noise.

It imports nothing of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.ground_truth import gaussian


@dataclass(frozen=True)
class ThreePaths:
    """States after every step [step, sample, ...]; what every step contributes to N, N*, N*_w; G(y) - F(y)."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    null: np.ndarray
    own: np.ndarray
    replay_own: np.ndarray
    own_injected: np.ndarray


def three_paths(
    schedule: gaussian.Schedule,
    clean: gaussian.Denoise,
    masked: gaussian.Denoise,
    start: np.ndarray,
    noise: Sequence[np.ndarray],
    window: Sequence[int] | None = None,
    fractions: tuple[float, float] = (0.0, 0.0),
) -> ThreePaths:
    """`noise`: of every step. `fractions`: of the learned variance, clean and masked. `window`: steps of the mask."""
    x = y = w = start
    rows = []

    def predicted(state, k):
        """D of level k; at the last level the state itself."""
        return state if k == schedule.steps else clean(state, schedule.alpha[k], schedule.sigma[k])

    for k in range(schedule.steps):
        acts = window is None or k in window

        def step(state, on, k=k, acts=acts):
            D = (masked if on and acts else clean)(state, schedule.alpha[k], schedule.sigma[k])
            return gaussian.advance(schedule, k, state, D, noise[k], fractions[on and acts])

        F_x, G_x, F_y, G_y, F_w = step(x, 0), step(x, 1), step(y, 0), step(y, 1), step(w, 0)
        pairs = (G_x, F_x), (G_y, F_y), (F_w + G_x - F_x, F_w)
        shifts = [predicted(one, k + 1) - predicted(other, k + 1) for one, other in pairs]
        x, y, w = F_x, G_y, F_w + (G_x - F_x)
        rows.append((x, y, w, *shifts, G_y - F_y))
    return ThreePaths(*(np.stack(row) for row in zip(*rows, strict=True)))


def norm(values: np.ndarray) -> np.ndarray:
    """Euclidean norm over (channel, y, x)."""
    return np.linalg.norm(values.reshape(*values.shape[:-3], -1), axis=-1)
