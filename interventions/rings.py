"""Radial rings of spatial frequency: which ring each mode of a cosine basis belongs to.

Runs are recorded by it and analysed by it, so it stands here, below both. Nothing is transformed.
"""

from __future__ import annotations

import numpy as np


def rings(height: int, width: int) -> np.ndarray:
    """Radial index of every DCT mode, int [height, width]: the rounded distance from the constant mode, in half
    cycles per image.
    """
    size = max(height, width)
    ky, kx = np.arange(height)[:, None] * size / height, np.arange(width)[None, :] * size / width
    return np.rint(np.hypot(ky, kx)).astype(int)


def count(height: int, width: int) -> int:
    """Number of rings."""
    return int(rings(height, width).max()) + 1


def members(height: int, width: int) -> np.ndarray:
    """Whether a mode, in C order, belongs to a ring: float64 0 or 1, [mode, ring]."""
    return (rings(height, width).reshape(-1, 1) == np.arange(count(height, width))).astype(np.float64)
