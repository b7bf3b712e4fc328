"""DDPM, ancestral sampling: fresh noise in every step but the last (Ho et al. 2020), with learned-range variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
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
    """Timesteps spaced "linspace", both ends kept, which agrees with the original respaced sampler of DiT."""
    kept = kept_signal(config)
    timestep = np.linspace(0, len(kept) - 1, steps).round().astype(np.int64)[::-1]
    return variance_preserving(prediction, timestep, kept)


def step(
    schedule: Schedule, i: int, x: Tensor, predictions: Sequence[Prediction], history: Sequence[Earlier] = ()
) -> Move:
    """One ancestral step (Ho et al. 2020, alg. 2), with learned-range variance where the network has it.

    mean = (x - beta / s eps) / sqrt(1 - beta) with beta of the respaced chain; the log-variance interpolates between
    log beta and the log posterior variance (Nichol & Dhariwal 2021, eq. 15); the posterior one where nothing is
    learned. The last step adds no noise.
    """
    (_, a, s), (_, a_next, s_next) = schedule.level(i), schedule.level(i + 1)
    (prediction,) = predictions
    eps, _ = epsilon_and_x0(schedule, i, x, prediction.value)
    kept = (a / a_next) ** 2
    beta = 1 - kept
    mean = (x - beta / s * eps) / kept**0.5
    if i + 1 == schedule.steps:
        return Move(mean)
    low, high = np.log(beta * s_next**2 / s**2), np.log(beta)
    if prediction.variance is None:
        return Move(mean, torch.full_like(mean, float(np.exp(low / 2))))
    fraction = (prediction.variance + 1) / 2
    return Move(mean, torch.exp(0.5 * (fraction * high + (1 - fraction) * low)))


def affine(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """p = (1 - beta / s^2) / sqrt(1 - beta), q = beta a' / s^2: the posterior mean (Ho et al. 2020, eq. 7)."""
    a, s, a_next = schedule.alpha[:-1], schedule.sigma[:-1], schedule.alpha[1:]
    kept = (a / a_next) ** 2
    beta = 1 - kept
    return (1 - beta / s**2) / np.sqrt(kept), beta * a_next / s**2


DDPM = Sampler(
    "ddpm", "ancestral sampling, fresh noise in every step", ("epsilon", "v_prediction"), stochastic=True,
    schedule=schedule, step=step, affine=affine,
)  # fmt: skip
