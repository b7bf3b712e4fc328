"""Squared maximum mean discrepancy of the shipped CLIP's embeddings between the masked and the clean pictures.

The same statistic as CMMD in another embedding, so its values compare among themselves only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from classify_clip.scores.embedded_clip import embed, no_embedded_clip, shipped_clip
from classify_clip.scores.metric import Metric, Weights
from classify_clip.scores.pictures import Pictures


def open_mmd(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images [n, 32, 32, 3] -> unit embeddings [n, d]."""
    clip = shipped_clip()
    return lambda images: embed(clip, images)


MMD = Metric(
    "mmd", "squared MMD to clean, embedded CLIP (x 1000)", "set", False, open_mmd, no_embedded_clip,
    default="shipped models", distance="mmd",
)  # fmt: skip
