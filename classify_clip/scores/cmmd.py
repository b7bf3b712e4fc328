"""CMMD: squared maximum mean discrepancy of CLIP ViT-L/14-336 embeddings; here the embeddings.

The statistic and its bootstrap are analysis. Torch is imported when the network is loaded.
Source: Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from classify_clip.scores.metric import Metric, Weights
from classify_clip.scores.open_clip_models import load_clip
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, locate

SOURCE = Source("cmmd", "open_clip_model.safetensors", "timm/vit_large_patch14_clip_336.openai", megabytes=1712)


def open_cmmd(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> unit embeddings [n, 768]."""
    clip = load_clip("ViT-L-14-336-quickgelu", SOURCE, locate(SOURCE, weights), pictures.device)
    side = clip.model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    return lambda images: clip.images([square(image, side) for image in images])


def square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the largest centred square, resized by PIL's bicubic filter as the published code does."""
    from PIL import Image

    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = Image.fromarray(image[top : top + edge, left : left + edge])
    return np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC))


CMMD = Metric("cmmd", "CMMD to clean, CLIP ViT-L/14-336", "set", False, open_cmmd, distance="mmd", source=SOURCE)
