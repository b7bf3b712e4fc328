"""Pictures of the predicted image along the way: at which steps they are taken, how large they are, how they are made.

A frame is the decoded x0 prediction of an arm in one step. An arm that has not departed has the clean one's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tracer.unit import Unit

LONGEST = 512
"""Pixels of a frame's longer side at most. The networks of the metrics read 224 to 336, so none sees pixels made up."""


def frame_steps(steps: int, frames: int) -> list[int]:
    """The steps whose predictions are kept: `frames` of them, evenly spread, the last one always; all if there are
    fewer."""
    count = min(frames, steps)
    return [-(-(k + 1) * steps // count) - 1 for k in range(count)]


def frame_size(image_size: Sequence[int]) -> tuple[int, int]:
    """(y, x) of the frames of pictures of this size: the same, or a whole fraction of it that `LONGEST` allows."""
    by = -(-max(image_size) // LONGEST)
    y, x = image_size
    return -(-y // by), -(-x // by)


def shrunk(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [n, y, x, 3] -> uint8 [n, *size, 3]: means over the pixels that fall into one; as they are at that size."""
    if images.shape[1:3] == tuple(size):
        return images
    pixels = torch.from_numpy(images).movedim(-1, 1).float()
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, size)
    return means.round().byte().movedim(1, -1).numpy()


def frames_of(unit: Unit, x0: Tensor, own: Sequence[int]) -> np.ndarray:
    """uint8 [arm, sample, y, x, 3] of the predictions x0 [lane, sample, ...] of one step; `own`: the lane of each arm.

    A lane that several arms share is decoded once, and each lane leaves the device before the next is decoded.
    """
    size = frame_size(unit.plan.denoiser.image_size)
    pictures = {lane: shrunk(unit.decode(x0[lane]), size) for lane in dict.fromkeys(own)}
    return np.stack([pictures[lane] for lane in own])
