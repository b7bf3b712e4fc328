"""Rectified flow by Euler steps: deterministic, for networks that predict a velocity (Esser et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tracer.samplers.base import Earlier, Move, Prediction, Sampler, Schedule


def schedule(steps: int, prediction: str, config: Mapping[str, Any]) -> Schedule:
    """Sigmas as diffusers' FlowMatchEulerDiscreteScheduler spaces them: even between the shifted ends, then shifted."""
    train, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("shift", 3.0))

    def shifted(sigma: np.ndarray | float) -> Any:
        return shift * sigma / (1 + (shift - 1) * sigma)

    sigma = np.append(shifted(np.linspace(shifted(1.0), shifted(1 / train), steps)), 0.0)
    return Schedule(prediction, sigma[:-1] * train, 1 - sigma, sigma)


def step(
    schedule: Schedule, i: int, x: Tensor, predictions: Sequence[Prediction], history: Sequence[Earlier] = ()
) -> Move:
    """One Euler step of rectified flow, x' = x + (s' - s) v (Esser et al. 2024)."""
    (prediction,) = predictions
    return Move(x + float(schedule.sigma[i + 1] - schedule.sigma[i]) * prediction.value)


def affine(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """p = s' / s, q = (s - s') / s: v = (x - D) / s put into the step."""
    s, s_next = schedule.sigma[:-1], schedule.sigma[1:]
    return s_next / s, (s - s_next) / s


FLOW = Sampler(
    "flow", "Euler steps of rectified flow", ("flow",), stochastic=False, schedule=schedule, step=step, affine=affine
)
