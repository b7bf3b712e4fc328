"""FID shift: Inception features of the pictures, whose Frechet distance from masked to clean is analysis.

Below 2048 samples the covariances lack rank, so this is a relative shift between arms of one run and no FID to compare
with published ones. Torch is imported when the network is loaded.
Source: Heusel et al. 2017; network and resizing of torch-fidelity, which agree with the original.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from classify_clip.scores.metric import Metric, Weights
from classify_clip.scores.networks import once
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, loading, locate, needs_package

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SOURCE = Source("fid", FILE, url=URL, megabytes=95.6)
BATCH = 16


def open_fid(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> Inception pool features [n, 2048]."""
    import torch

    network, device = load(locate(SOURCE, weights), pictures.device)

    def features(images: np.ndarray) -> np.ndarray:
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).contiguous()
                parts.append(network(pixels.to(device))[0].float().cpu().numpy())
        return np.concatenate(parts)

    return features


@once
def load(path: Path, device: str | None) -> tuple[Any, Any]:
    """torch-fidelity's Inception with the weights at `path`, and the device it is on. Raises ScoreError."""
    import torch

    from tracer.denoisers import usable_device

    name = "torch_fidelity.feature_extractor_inceptionv3"
    package = needs_package("fid", "torch-fidelity", lambda: importlib.import_module(name))
    where = usable_device(device)
    with loading(SOURCE, path):
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run what a pickle holds
        network = package.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    return network.eval().to(where), where


FID = Metric("fid", "FID shift to clean", "set", False, open_fid, distance="frechet", source=SOURCE)
