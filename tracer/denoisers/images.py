"""Pixels in and out: states in [-1, 1] to uint8 pictures, and pictures to states."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_uint8(pixels: Tensor) -> np.ndarray:
    """[n, channel, y, x] in [-1, 1] -> uint8 [n, y, x, 3]. The first three channels are shown; one is repeated."""
    shown = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    return ((shown.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def from_uint8(images: np.ndarray) -> Tensor:
    """uint8 [n, y, x, channel] -> float32 [n, channel, y, x] in [-1, 1]; `to_uint8` brings the same picture back."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
