"""The noise of a sample: its starting state and one draw per step, from its own seed, path and step alone.

Nothing here depends on the batch, the arms, the device or the worker. Coupled noise is that of one Brownian path, cut
at the levels of the run, so that runs with other numbers of steps follow the same path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.denoisers.base import Sample
from tracer.request import PlanError
from tracer.samplers.base import Schedule, kept_signal


def sample_noise(samples: Sequence[Sample], step: int, shape: Sequence[int], like: Tensor, fork: int = 0) -> Tensor:
    """Standard normal noise [sample, *shape] of one step (-1: the starting noise x_T, alike on all paths of a start).

    Before step `fork` every path has the noise of path 0.
    """
    paths = (0 if step < max(fork, 0) else sample.path for sample in samples)
    drawn = [
        _normal(sample.seed, step + 1, (path,) if path else (), shape)
        for sample, path in zip(samples, paths, strict=True)
    ]
    return torch.stack(drawn).to(like)


def coupled_noise(
    samples: Sequence[Sample],
    step: int,
    shape: Sequence[int],
    like: Tensor,
    *,
    schedule: Schedule,
    kept: np.ndarray,
    fork: int = 0,
) -> Tensor:
    """Noise [sample, *shape] of the step from level a to b: (W(SNR_b) - W(SNR_a)) / sqrt(SNR_b - SNR_a).

    W is a Brownian path in SNR = alpha^2 / sigma^2, one for every seed and path, drawn on the training timesteps;
    `kept` is alpha^2 by training timestep. Standard normal, and independent over the steps of a run. For a prediction
    that stays the same, the DDPM step with the posterior variance is this motion: (x / alpha - D) / sigma^2 moves by
    sqrt(SNR_b - SNR_a) times the noise. Source: docs/science.md, "Counterfactual runs".
    """
    first, last = int(schedule.timestep[step]), int(schedule.timestep[step + 1])
    weights = increments(kept, first, last)
    drawn = []
    for sample in samples:
        path = 0 if step < fork else sample.path
        total = torch.zeros(tuple(shape), dtype=torch.float64)
        for timestep, weight in zip(range(first, last, -1), weights, strict=True):
            total += float(weight) * _normal(sample.seed, timestep, (path, _COUPLED), shape).double()
        drawn.append(total)
    return torch.stack(drawn).to(like)


def increments(kept: np.ndarray, first: int, last: int) -> np.ndarray:
    """Weights of the normals of training timesteps first, first - 1, ..., last + 1 in a step from `first` to `last`.

    Each is the square root of the part of the step's SNR range that its timestep covers; their squares add up to 1.
    """
    snr = kept / (1 - kept)
    timesteps = np.arange(first, last, -1)
    return np.sqrt((snr[timesteps - 1] - snr[timesteps]) / (snr[last] - snr[first]))


def check_coupled(schedule: Schedule, config: Mapping[str, Any]) -> None:
    """Raise PlanError where the levels are not those of training timesteps, so that no path is drawn on them."""
    timestep = schedule.timestep.astype(int)
    kept = kept_signal(config)
    on_grid = (timestep == schedule.timestep).all() and timestep.max() < len(kept) and (np.diff(timestep) < 0).all()
    if not on_grid or not np.allclose(schedule.alpha[:-1] ** 2, kept[timestep], rtol=1e-9):
        raise PlanError("--noise coupled: this sampler's levels are not training timesteps; use --noise independent")


_COUPLED = 1
"""Keeps the normals of a Brownian path apart from those of independent steps."""


def _normal(seed: int, number: int, key: tuple[int, ...], shape: Sequence[int]) -> Tensor:
    """Drawn on the CPU in float32; `key` tells apart what has the same seed and number, () is path 0."""
    mixed = np.random.SeedSequence([seed, number], spawn_key=key).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
