"""CLIP-T: cosine of a picture and its own prompt under CLIP ViT-B/32 (openai, QuickGELU).

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from classify_clip.scores.metric import Metric, Weights, without_prompts
from classify_clip.scores.open_clip_models import cosines, load_clip
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, locate

SOURCE = Source("clip-t", "open_clip_model.safetensors", "timm/vit_base_patch32_clip_224.openai", megabytes=605)


def open_clip_t(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> cosine [n] with their prompts."""
    return cosines(load_clip("ViT-B-32-quickgelu", SOURCE, locate(SOURCE, weights), pictures.device), pictures)


CLIP_T = Metric(
    "clip-t", "CLIP-T, cosine of picture and prompt", "score", True, open_clip_t, without_prompts, source=SOURCE
)
