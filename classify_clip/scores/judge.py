"""What the shipped judge sees: does a picture show its class, and the same class as its clean twin.

The judge knows the twelve emoji classes only, and is itself wrong on one held-out picture in ten (its card says which),
so compare arms, not absolute shares. Torch is imported when a picture is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from classify_clip.scores.metric import Metric, Weights, not_small
from classify_clip.scores.pictures import Pictures


def class_names() -> tuple[str, ...]:
    """The judge's classes in the order of its outputs."""
    return _judge()[1]


def open_judge(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> 1.0 where the judge sees the class that was asked for, else 0.0; [n]."""
    labels = np.array([class_names().index(name) for name in pictures.classes or ()])
    return lambda images: (seen(images) == labels).astype(np.float64)


def open_agreement(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(images, clean) -> 1.0 where the judge sees the same class in both, else 0.0; [n]."""
    return lambda images, clean: (seen(images) == seen(clean)).astype(np.float64)


def seen(images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Class index [n] that the judge sees in uint8 images [n, 32, 32, 3]."""
    import torch

    from tracer.denoisers.images import from_uint8

    model = _judge()[0]
    with torch.no_grad():
        parts = [model(from_uint8(images[at : at + batch])).argmax(1) for at in range(0, len(images), batch)]
    return torch.cat(parts).numpy()


def _not_judged(pictures: Pictures) -> str | None:
    if (reason := not_small(pictures)) is not None:
        return reason
    if pictures.classes is None:
        return "the run's samples have no class"
    fits = set(pictures.classes) <= set(class_names())
    return None if fits else f"the judge knows {', '.join(class_names())}, which are not this run's classes"


@cache
def _judge() -> tuple[Callable, tuple[str, ...]]:
    from classify_clip.embedded.judge import load_judge

    return load_judge()


JUDGE = Metric("judge", "share the judge recognises", "score", True, open_judge, _not_judged, default="shipped models")
AGREEMENT = Metric(
    "agreement", "share judged as the clean picture is", "to clean", True, open_agreement, not_small,
    default="shipped models",
)  # fmt: skip
