"""What the shipped judge sees: does a picture show its class, and the same class as its clean twin.

Torch and the judge are imported when a picture is measured. The judge knows the twelve emoji classes only, and is
itself wrong on one held-out picture in ten (its card says which), so compare arms, not absolute shares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from analysis.quality.pictures import Pictures


def class_names() -> tuple[str, ...]:
    """The judge's classes in the order of its outputs."""
    return _judge()[1]


def opened(pictures: Pictures, weights: object = None) -> Callable[[np.ndarray], np.ndarray]:
    """images -> 1.0 where the judge sees the class that was asked for, else 0.0; [n]."""
    labels = np.array([class_names().index(name) for name in pictures.classes or ()])
    return lambda images: (seen(images) == labels).astype(np.float64)


def opened_agreement(pictures: Pictures, weights: object = None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(images, clean) -> 1.0 where the judge sees the same class in both, else 0.0; [n]."""
    return lambda images, clean: (seen(images) == seen(clean)).astype(np.float64)


def seen(images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Class index [n] that the judge sees in uint8 images [n, 32, 32, 3]."""
    import torch

    model = _judge()[0]
    found = []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
            found.append(model(pixels).argmax(1).numpy())
    return np.concatenate(found)


@cache
def _judge() -> tuple[Callable, tuple[str, ...]]:
    from classify_clip.embedded.judge import load_judge

    return load_judge()
