"""CMMD: squared maximum mean discrepancy of CLIP embeddings, and its bootstrap over paired samples.

The formula needs no network. The embeddings come from CLIP ViT-L/14-336 as published, or from the shipped CLIP for
32 x 32 pictures; torch is imported only there. Values compare within one embedding only.
Source: Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from analysis.quality.pictures import Pictures
from analysis.quality.weights import Source, locate

SIGMA, SCALE = 10.0, 1000.0
SOURCE = Source("cmmd", "open_clip_model.safetensors", "timm/vit_large_patch14_clip_336.openai")


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """1000 (mean k_xx + mean k_yy - 2 mean k_xy), k = exp(-|a - b|^2 / (2 10^2)), diagonals included.

    x [n, d] and y [m, d]: embeddings of length 1. Computed in float64.
    """
    return SCALE * float(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The Gaussian kernel [n, m] of two sets of embeddings."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-np.maximum(squared, 0) / (2 * SIGMA**2))


def resampled(clean: np.ndarray, masked: np.ndarray) -> Callable[..., np.ndarray]:
    """The CMMD of resampled pairs, as a statistic of sample numbers [..., n] along `axis`, for `statistics.bca`.

    Both embeddings [n, d] of a sample are drawn together. With h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) -
    k(y_i, x_j) the CMMD is the mean of h over all i, j. A sample drawn twice would add h(i, i) to the pairs of two
    different draws, where no real second sample gives such a value, and bias every replicate upwards: those pairs are
    left out (SCIENCE section 6). The numbers 0..n-1 give `cmmd(clean, masked)` itself.
    """
    cross = kernel(clean, masked)
    h = SCALE * (kernel(clean, clean) + kernel(masked, masked) - cross - cross.T)
    own = np.diag(h).copy()

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        counts = _counts(np.moveaxis(np.asarray(numbers), axis, -1).astype(np.int64), len(h))
        drawn = counts.sum(-1)
        pairs = drawn**2 - (counts**2).sum(-1)  # of different samples
        other = ((counts @ h) * counts).sum(-1) - counts**2 @ own
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_other = np.where(pairs > 0, other / pairs, 0.0)
        return (counts @ own / drawn + (drawn - 1) * mean_other) / drawn

    return statistic


def _counts(numbers: np.ndarray, n: int) -> np.ndarray:
    """How often each of n samples is drawn, float [..., n], of sample numbers [..., draws]."""
    rows = numbers.reshape(-1, numbers.shape[-1])
    flat = (rows + n * np.arange(len(rows))[:, None]).ravel()
    return np.bincount(flat, minlength=n * len(rows)).reshape(*numbers.shape[:-1], n).astype(np.float64)


def embedded_clip() -> Path:
    """Folder of the shipped CLIP."""
    spec = importlib.util.find_spec("classify_clip")
    return Path(str(spec.origin)).parent / "embedded" / "clip" if spec and spec.origin else Path("missing")


def opened_embedded(pictures: Pictures, weights: object = None) -> Callable[[np.ndarray], np.ndarray]:
    """images [n, 32, 32, 3] -> unit embeddings of the shipped CLIP."""
    from classify_clip.generation import embed
    from classify_clip.models import load_retriever

    clip = load_retriever(device="cpu")
    return lambda images: embed(clip, images)


def opened(pictures: Pictures, weights: Mapping[str, str | Path]) -> Callable[[np.ndarray], np.ndarray]:
    """images -> unit embeddings [n, 768] of CLIP ViT-L/14-336 (openai)."""
    from analysis.quality.clip import load_clip

    loaded = load_clip("ViT-L-14-336-quickgelu", SOURCE, locate(SOURCE, weights))
    side = loaded.model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    return lambda images: loaded.images([square(image, side) for image in images])


def square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: the largest centred square, resized by PIL's bicubic filter as the published code does."""
    from PIL import Image

    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = Image.fromarray(image[top : top + edge, left : left + edge])
    return np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC))
