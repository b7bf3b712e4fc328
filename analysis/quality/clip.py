"""Picture and prompt under an open_clip model: CLIP-T (ViT-B/32, openai) and HPS v2 / v2.1 (ViT-H/14, fine-tuned).

Both are plain cosines of unit embeddings, without the logit scale. Torch and open_clip are imported when a model is
loaded. Sources: Radford et al. 2021; Wu et al. 2023, "Human Preference Score v2".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.quality.pictures import Pictures
from analysis.quality.weights import Source, loading, locate

CLIP_T = Source("clip-t", "open_clip_model.safetensors", "timm/vit_base_patch32_clip_224.openai")
HPS = Source("hps", "HPS_v2.1_compressed.pt", "xswu/HPSv2")
BATCH = 16


@dataclass(frozen=True)
class Clip:
    """An open_clip model with its own picture transform and tokenizer."""

    model: Any
    transform: Callable[[Any], Any]
    tokenize: Callable[[Sequence[str]], Any]

    def images(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Unit embeddings [n, d] of uint8 pictures [y, x, 3]."""
        import torch
        from PIL import Image

        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                batch = [self.transform(Image.fromarray(image)) for image in images[start : start + BATCH]]
                parts.append(self.model.encode_image(torch.stack(batch), normalize=True).float().numpy())
        return np.concatenate(parts)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings [n, d] of prompts."""
        import torch

        with torch.no_grad():
            parts = [
                self.model.encode_text(self.tokenize(list(texts[start : start + BATCH])), normalize=True)
                .float()
                .numpy()
                for start in range(0, len(texts), BATCH)
            ]
        return np.concatenate(parts)


def load_clip(name: str, source: Source, path: Path) -> Clip:
    """The open_clip architecture `name` with the weights at `path`. Raises QualityError when they do not fit."""
    import open_clip

    with loading(source, path):
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(path))
    return Clip(model.eval().requires_grad_(False), transform, open_clip.get_tokenizer(name))


def opened_clip_t(pictures: Pictures, weights: Mapping[str, str | Path]) -> Callable[[np.ndarray], np.ndarray]:
    """images -> cosine [n] with their prompts under CLIP ViT-B/32 (openai, QuickGELU)."""
    return cosines(load_clip("ViT-B-32-quickgelu", CLIP_T, locate(CLIP_T, weights)), pictures)


def opened_hps(pictures: Pictures, weights: Mapping[str, str | Path]) -> Callable[[np.ndarray], np.ndarray]:
    """images -> HPS [n]; v2.1 by default, v2 when `--weights hps=` names HPS_v2_compressed.pt."""
    return cosines(load_clip("ViT-H-14", HPS, locate(HPS, weights)), pictures)


def opened_embedded(pictures: Pictures, weights: object = None) -> Callable[[np.ndarray], np.ndarray]:
    """images -> cosine [n] with their prompts under the embedded CLIP, which knows drawings of 32 x 32 pixels."""
    import torch

    from analysis.quality.cmmd import opened_embedded as opened_images
    from classify_clip.models import load_retriever

    clip, images_of = load_retriever("clip", device="cpu"), opened_images(pictures)
    with torch.no_grad():
        texts = clip.encode_text(clip.tokenize(list(pictures.prompts or ()))).double().numpy()
    return lambda images: (images_of(images).astype(np.float64) * texts).sum(1)


def cosines(clip: Clip, pictures: Pictures) -> Callable[[np.ndarray], np.ndarray]:
    """images -> cosine [n] of every picture with its own prompt."""
    texts = clip.texts(pictures.prompts or ())
    return lambda images: (clip.images(images).astype(np.float64) * texts).sum(1)
