"""The shipped CLIP, which knows drawings of 32 x 32 pixels and their names: unit embeddings of pictures.

What the metrics `alignment` and `mmd`, the generated pictures and the one-pass sweep share. Values compare within this
embedding only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classify_clip.data import DataError
from classify_clip.scores.metric import not_small
from classify_clip.scores.networks import once
from classify_clip.scores.pictures import Pictures

if TYPE_CHECKING:
    from classify_clip.models import Retriever


@once
def shipped_clip() -> Retriever:
    """The shipped CLIP, on the CPU everywhere: it is small, and its values are then the same on every machine."""
    from classify_clip.models import load_retriever

    return load_retriever("clip", device="cpu")


def embed(clip: Retriever, pictures: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Unit embeddings [n, d] of uint8 pictures [n, 32, 32, 3] by a CLIP that reads 32 x 32 in [-1, 1]."""
    import torch

    from tracer.denoisers.images import from_uint8

    if pictures.shape[1:] != (32, 32, 3):
        raise DataError(
            f"pictures of {pictures.shape[1]} x {pictures.shape[2]} pixels; the embedded CLIP reads 32 x 32"
        )
    with torch.no_grad():
        return torch.cat([clip.encode_image(pixels) for pixels in from_uint8(pictures).split(batch_size)]).numpy()


def no_embedded_clip(pictures: Pictures) -> str | None:
    """A reason for metrics by the shipped CLIP."""
    if (reason := not_small(pictures)) is not None:
        return reason
    from classify_clip.models import RETRIEVERS

    return None if RETRIEVERS["clip"].is_dir() else "the embedded CLIP weights are not installed"
