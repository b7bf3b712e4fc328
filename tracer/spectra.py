"""The energy of states per radial ring of spatial frequency, computed where the states are.

An analysis of scales then reads some numbers a state instead of the state (`analysis.common.spectrum`, which does the
same with scipy for runs that lack them). Nothing is divided or compared here.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from interventions.rings import members


def ring_energy(fields: Tensor) -> Tensor:
    """Sum of squares over channels and the cosine modes of each ring: [..., channel, y, x] -> [..., ring].

    The orthonormal DCT-II, so the rings add up to |field|^2. In float64, given in the dtype of the fields.
    """
    height, width = fields.shape[-2:]
    down, across, of_ring = _bases(height, width, fields.device)
    modes = down @ fields.double() @ across.T
    return ((modes * modes).sum(-3).flatten(-2) @ of_ring).to(fields.dtype)


@functools.lru_cache(maxsize=4)
def _bases(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The cosine basis of each axis [mode, place], and which mode is in which ring [mode, ring]; float64."""
    of_ring = torch.from_numpy(members(height, width))
    return _cosines(height).to(device), _cosines(width).to(device), of_ring.to(device)


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix [mode, place]."""
    mode, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (place + 0.5) * mode) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis
