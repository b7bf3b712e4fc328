"""DDIM with eta = 0: deterministic, first order, on a variance-preserving schedule (Song et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tracer.samplers.base import (
    Earlier,
    Move,
    Prediction,
    Sampler,
    Schedule,
    epsilon_and_x0,
    kept_signal,
    variance_preserving,
)


def schedule(steps: int, prediction: str, config: Mapping[str, Any]) -> Schedule:
    """Timesteps spaced "leading", then `steps_offset`; the last level is clean unless `set_alpha_to_one` is off."""
    kept = kept_signal(config)
    stride = len(kept) // steps
    timestep = (np.arange(steps) * stride).astype(np.int64)[::-1] + int(config.get("steps_offset", 0))
    last = 1.0 if config.get("set_alpha_to_one", True) else kept[0]
    return variance_preserving(prediction, timestep, kept, last)


def step(
    schedule: Schedule, i: int, x: Tensor, predictions: Sequence[Prediction], history: Sequence[Earlier] = ()
) -> Move:
    """One deterministic step x' = a' D + s' eps (Song et al. 2021, eq. 12 with eta = 0)."""
    _, a_next, s_next = schedule.level(i + 1)
    (prediction,) = predictions
    eps, x0 = epsilon_and_x0(schedule, i, x, prediction.value)
    return Move(a_next * x0 + s_next * eps)


def affine(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """p = s' / s, q = a' - s' a / s: eps = (x - a D) / s put into the step."""
    a, s, a_next, s_next = schedule.alpha[:-1], schedule.sigma[:-1], schedule.alpha[1:], schedule.sigma[1:]
    return s_next / s, a_next - s_next * a / s


DDIM = Sampler(
    "ddim", "deterministic, the probability-flow ODE to first order", ("epsilon", "v_prediction"), stochastic=False,
    schedule=schedule, step=step, affine=affine,
)  # fmt: skip
