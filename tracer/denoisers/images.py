"""Pixels in and out: what networks paint in [-1, 1], and uint8 pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tracer.denoisers.base import CheckpointError

Size = int | tuple[int, int]
"""Of images: the side of a square one, or (y, x)."""
_HALF_RANGE = 127.5


def to_uint8(pixels: Tensor) -> np.ndarray:
    """[..., channel, y, x] in [-1, 1] -> uint8 [..., y, x, 3]. The first three channels are shown; one is repeated."""
    shown = (
        pixels[..., :3, :, :]
        if pixels.shape[-3] >= 3
        else pixels[..., :1, :, :].expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
    )
    return ((shown.float().clamp(-1, 1) + 1) * _HALF_RANGE).round().byte().movedim(-3, -1).cpu().numpy()


def from_uint8(images: np.ndarray) -> Tensor:
    """uint8 [..., y, x, channel] -> float32 [..., channel, y, x] in [-1, 1]."""
    return torch.from_numpy(images).movedim(-1, -3).float() / _HALF_RANGE - 1


def square(size: Size | None, name: str) -> int | None:
    """The side of the square images that are asked for; None for the checkpoint's own. Raises CheckpointError."""
    if size is None or isinstance(size, int):
        return size
    height, width = size
    if height != width:
        raise CheckpointError(
            f"size {height}x{width}: {name} makes square images as this family reads it; type --size {height}, or "
            "--model pipeline for its own pipeline"
        )
    return height
