"""Pictures and prompts under a large open_clip model: what CLIP-T, HPS and CMMD share.

Scores are plain cosines of unit embeddings, without the logit scale. Torch and open_clip are imported when a model is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classify_clip.scores.networks import once
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, loading

BATCH = 16


@dataclass(frozen=True)
class Clip:
    """An open_clip model with its own picture transform and tokenizer."""

    model: Any
    transform: Callable[[Any], Any]
    tokenize: Callable[[Sequence[str]], Any]
    device: Any = "cpu"

    def images(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Unit embeddings [n, d] of uint8 pictures [y, x, 3]."""
        import torch
        from PIL import Image

        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                batch = [self.transform(Image.fromarray(image)) for image in images[start : start + BATCH]]
                pixels = torch.stack(batch).to(self.device)
                parts.append(self.model.encode_image(pixels, normalize=True).float().cpu().numpy())
        return np.concatenate(parts)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings [n, d] of prompts."""
        import torch

        with torch.no_grad():
            parts = []
            for start in range(0, len(texts), BATCH):
                tokens = self.tokenize(list(texts[start : start + BATCH])).to(self.device)
                parts.append(self.model.encode_text(tokens, normalize=True).float().cpu().numpy())
        return np.concatenate(parts)


@once
def load_clip(name: str, source: Source, path: Path, device: str | None = None) -> Clip:
    """The open_clip architecture `name` with the weights at `path`, on a device (`Pictures.device`).

    Raises ScoreError when they do not fit.
    """
    import open_clip

    from tracer.denoisers import usable_device

    where = usable_device(device)
    with loading(source, path):
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(path))
    return Clip(model.eval().requires_grad_(False).to(where), transform, open_clip.get_tokenizer(name), where)


def cosines(clip: Clip, pictures: Pictures) -> Callable[[np.ndarray], np.ndarray]:
    """images -> cosine [n] of every picture with its own prompt."""
    texts = clip.texts(pictures.prompts or ())
    return lambda images: (clip.images(images).astype(np.float64) * texts).sum(1)
