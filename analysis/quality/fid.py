"""FID shift: Frechet distance of Inception features between the masked and the clean pictures of a run.

Below 2048 samples the covariances lack rank, so this is a relative shift between arms of one run and no FID to compare
with published ones; resampling inflates it, so it comes without an interval. Torch is imported when the network is
loaded. Source: Heusel et al. 2017; network and resizing of torch-fidelity, which agree with the original.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from analysis.quality.pictures import Pictures
from analysis.quality.weights import Source, loading, locate, needs_package

FILE = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = Source("fid", FILE, url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}")
BATCH = 16


def opened(pictures: Pictures, weights: Mapping[str, str | Path]) -> Callable[[np.ndarray], np.ndarray]:
    """images -> Inception pool features [n, 2048]."""
    import torch

    name = "torch_fidelity.feature_extractor_inceptionv3"
    package = needs_package("fid", "torch-fidelity", lambda: importlib.import_module(name))
    path = locate(SOURCE, weights)
    with loading(SOURCE, path):
        network = package.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))

    def features(images: np.ndarray) -> np.ndarray:
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).contiguous()
                parts.append(network(pixels)[0].double().numpy())
        return np.concatenate(parts)

    return features


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """|mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of features [n, d], [m, d].

    The trace of the root is the sum of singular values of X Y^T / sqrt((n - 1)(m - 1)), X and Y centred: exact also
    where the covariances lack rank, and of the size of the samples, not of the features.
    """
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    x, y = ((part - part.mean(0)) / np.sqrt(len(part) - 1) for part in (x, y))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(mean + (x**2).sum() + (y**2).sum() - 2 * root)


def resampled(clean: np.ndarray, masked: np.ndarray) -> Callable[..., np.ndarray]:
    """The distance as a statistic of sample numbers (only the whole set is asked for)."""

    def statistic(numbers: np.ndarray, axis: int = -1) -> np.ndarray:
        numbers = np.asarray(numbers).astype(np.int64)
        return np.asarray(frechet(clean[numbers], masked[numbers]))

    return statistic
