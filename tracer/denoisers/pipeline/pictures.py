"""What a pipeline gives back, as one uint8 picture for each sample; a video becomes a strip of a few of its frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

FRAMES = 4
"""Frames of a video that are shown, side by side: the first, the last and those between at equal distances."""


def pictures(result: Any) -> np.ndarray:
    """uint8 [sample, y, x, 3] of a pipeline's output, whose pixels lie in [0, 1]."""
    found = result[0] if isinstance(result, tuple | list) else next(iter(result.values()))
    values = found.float().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    if values.dtype == np.uint8:
        values = values / 255
    if values.ndim == 5:
        values = _strip(values)
    colours = values if values.shape[-1] == 3 else np.repeat(values[..., :1], 3, axis=-1)
    return (np.nan_to_num(colours).clip(0, 1) * 255).round().astype(np.uint8)


def _strip(video: np.ndarray) -> np.ndarray:
    """[sample, frame, y, x, colour] -> [sample, y, frame x, colour]."""
    frames = video.shape[1]
    shown = np.unique(np.linspace(0, frames - 1, min(FRAMES, frames)).round().astype(int))
    return np.concatenate([video[:, frame] for frame in shown], axis=2)
