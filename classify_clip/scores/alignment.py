"""Cosine of a picture and its own prompt under the shipped CLIP, which knows drawings of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from classify_clip.scores.embedded_clip import embed, no_embedded_clip, shipped_clip
from classify_clip.scores.metric import Metric, Weights, without_prompts
from classify_clip.scores.pictures import Pictures


def open_alignment(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> cosine [n] with their prompts."""
    import torch

    clip = shipped_clip()
    with torch.no_grad():
        texts = clip.encode_text(clip.tokenize(list(pictures.prompts or ()))).double().numpy()
    return lambda images: (embed(clip, images).astype(np.float64) * texts).sum(1)


def _not_described(pictures: Pictures) -> str | None:
    return without_prompts(pictures) or no_embedded_clip(pictures)


ALIGNMENT = Metric(
    "alignment", "cosine of picture and prompt, embedded CLIP", "score", True, open_alignment, _not_described,
    default="shipped models",
)  # fmt: skip
