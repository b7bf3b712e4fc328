"""LPIPS between a masked picture and its clean twin: AlexNet features under the weights that ship with `lpips`.

The backbone comes from torchvision; torch and lpips are imported when it is loaded.
Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from classify_clip.scores.metric import Metric, Weights
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, loading, locate, needs_package

SOURCE = Source("lpips", "alexnet-owt-7be5be79.pth", url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth")
BATCH = 16


def open_lpips(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(images, clean) -> LPIPS [n], both uint8 [n, y, x, 3]."""
    model = load(locate(SOURCE, weights))
    return lambda images, clean: distance(model, images, clean)


def load(path: Path) -> Any:
    """`lpips.LPIPS(net="alex")` with the AlexNet at `path`. Raises ScoreError when it does not fit."""
    import torch

    package = needs_package("lpips", "lpips", lambda: importlib.import_module("lpips"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an old way
        model = package.LPIPS(net="alex", pnet_rand=True, verbose=False)  # our own backbone: no download
    with loading(SOURCE, path):
        backbone = torch.load(path, map_location="cpu", weights_only=True)
        held = {name: backbone["features." + name.partition(".")[2]] for name in model.net.state_dict()}
        model.net.load_state_dict(held)
    return model.eval().requires_grad_(False)


def distance(model: Any, images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """LPIPS [n] of paired pictures."""
    import torch

    from tracer.denoisers.images import from_uint8

    with torch.no_grad():
        parts = [
            model(from_uint8(images[at : at + BATCH]), from_uint8(clean[at : at + BATCH])).reshape(-1).double().numpy()
            for at in range(0, len(images), BATCH)
        ]
    return np.concatenate(parts)


LPIPS = Metric("lpips", "LPIPS (AlexNet) to clean", "to clean", False, open_lpips, source=SOURCE)
