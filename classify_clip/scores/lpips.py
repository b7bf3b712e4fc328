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
from classify_clip.scores.networks import once
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import Source, loading, locate, needs_package

FILE = "alexnet-owt-7be5be79.pth"
SOURCE = Source("lpips", FILE, url=f"https://download.pytorch.org/models/{FILE}", megabytes=244)
BATCH = 16


def open_lpips(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(images, clean) -> LPIPS [n], both uint8 [n, y, x, 3]."""
    model = load(locate(SOURCE, weights), pictures.device)
    return lambda images, clean: distance(model, images, clean)


@once
def load(path: Path, device: str | None = None) -> Any:
    """`lpips.LPIPS(net="alex")` with the AlexNet at `path`. Raises ScoreError when it does not fit."""
    import torch

    from tracer.denoisers import usable_device

    package = needs_package("lpips", "lpips", lambda: importlib.import_module("lpips"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an old way
        model = package.LPIPS(net="alex", pnet_rand=True, verbose=False)  # our own backbone: no download
    with loading(SOURCE, path):
        backbone = torch.load(path, map_location="cpu", weights_only=True)
        held = {name: backbone["features." + name.partition(".")[2]] for name in model.net.state_dict()}
        model.net.load_state_dict(held)
    return model.eval().requires_grad_(False).to(usable_device(device))


def distance(model: Any, images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """LPIPS [n] of paired pictures."""
    import torch

    from tracer.denoisers.images import from_uint8

    where, parts = next(model.parameters()).device, []
    with torch.no_grad():
        for at in range(0, len(images), BATCH):
            pair = [from_uint8(pictures[at : at + BATCH]).to(where) for pictures in (images, clean)]
            parts.append(model(*pair).reshape(-1).cpu().double().numpy())
    return np.concatenate(parts)


LPIPS = Metric("lpips", "LPIPS (AlexNet) to clean", "to clean", False, open_lpips, source=SOURCE)
