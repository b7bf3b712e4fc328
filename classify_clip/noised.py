"""Held-out drawings and the noise that is put on them for one pass of the embedded DiT.

Every drawing has one noise, of its own row in the held-out set, whatever the timestep, the mask or the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classify_clip.data import held_out, spread
from tracer.denoisers.images import from_uint8
from tracer.samplers.base import kept_signal


def levels(denoiser: Any, timesteps: Sequence[int]) -> list[tuple[int, float, float]]:
    """(timestep, alpha, sigma) of x = alpha x0 + sigma noise, of the denoiser's own training schedule."""
    kept = kept_signal(denoiser.scheduler)
    return [(t, float(np.sqrt(kept[t])), float(np.sqrt(1 - kept[t]))) for t in timesteps]


def noise(rows: Sequence[int] | np.ndarray, shape: Sequence[int] = (3, 32, 32)) -> Tensor:
    """Standard normal noise [rows, channel, y, x] of these rows of the held-out set, float32."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(int(row))) for row in rows])


def held_out_batches(samples: int, batch_size: int = 16) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(row indices, pixels in [-1, 1]) of held-out drawings spread over the whole set."""
    data = held_out()
    rows = spread(len(data.label), samples)
    pixels = from_uint8(data.pixels[rows])
    for start in range(0, samples, batch_size):
        part = slice(start, start + batch_size)
        yield rows[part], pixels[part]
