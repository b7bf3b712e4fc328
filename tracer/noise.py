"""The noise of a sample: its starting state and one draw per step, from its own seed, path and step alone.

Nothing here depends on the batch, the arms, the device or the worker. Which noise a run takes is in its plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tracer.denoisers.base import Sample


def sample_noise(samples: Sequence[Sample], step: int, shape: Sequence[int], like: Tensor, fork: int = 0) -> Tensor:
    """Standard normal noise [sample, *shape] of one step (-1: the starting noise x_T, alike on all paths of a start).

    Before step `fork` every path has the noise of path 0.
    """
    shared = step < max(fork, 0)
    drawn = [_normal(sample.seed, step + 1, () if shared else _key(sample), shape) for sample in samples]
    return torch.stack(drawn).to(like)


def _key(sample: Sample) -> tuple[int, ...]:
    return (sample.path,) if sample.path else ()


def _normal(seed: int, number: int, key: tuple[int, ...], shape: Sequence[int]) -> Tensor:
    """Drawn on the CPU in float32; `key` tells apart what has the same seed and number, () is path 0."""
    mixed = np.random.SeedSequence([seed, number], spawn_key=key).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
