"""Pixel distance between a masked picture and its clean twin. No network; what people see is another matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from classify_clip.scores.metric import Metric, Weights
from classify_clip.scores.pictures import Pictures


def open_pixels(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(images, clean) -> root-mean-square difference [n] in units of the full range; PSNR is -20 log10 of it."""
    return rms


def rms(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """uint8 [n, y, x, 3] twice -> [n] in 0..1, one pair after another: float64 takes eight times the memory."""
    return np.array(
        [np.sqrt(np.mean((one.astype(np.float64) - two) ** 2)) / 255 for one, two in zip(images, clean, strict=True)]
    )


PIXELS = Metric(
    "pixels", "RMS pixel difference to clean, of full range", "to clean", False, open_pixels, default="any run"
)
