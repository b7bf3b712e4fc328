"""Classification of a set of images under one intervention: per-sample predictions, agreement with clean, distances.

Runs a timm model under `interventions.attend`; which cells to run and where to keep them is `classify_clip.sweep`. The
clean cell runs through the same seam, so both arms use one attention kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from classify_clip import scales
from classify_clip.data import Images
from classify_clip.models import Classifier
from interventions import Intervention, attend, parse

RANKS = 5
VARIABLES: dict[str, tuple[tuple[str, ...], str, dict]] = {
    "prediction": (("cell", "sample", "rank"), "int32", {"long_name": "predicted classes, best first", "units": "1"}),
    "correct": (("cell", "sample"), "int8", {"long_name": "the first prediction is the label (-1: no label)"}),
    "correct5": (("cell", "sample"), "int8", {"long_name": "the label is among the first five (-1: no label)"}),
    "agree": (("cell", "sample"), "int8", {"long_name": "same first prediction as clean"}),
    "loss": (("cell", "sample"), "float32", {"long_name": "cross-entropy of the label", "units": "nat"}),
    "logit_distance": (
        ("cell", "sample"),
        "float32",
        {"long_name": "distance to the clean logits, constants removed", "units": "1"},
    ),
    "feature_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared shift of the pooled feature over its clean variance", "units": "1"},
    ),
    "mmd2": (("cell",), "float32", {"long_name": "squared MMD of unit features to clean, sigma 10, times 1000"}),
}


@dataclass(frozen=True)
class Outputs:
    """What a model says of every image: features [n, width], logits [n, classes], float32."""

    features: np.ndarray
    logits: np.ndarray


@torch.no_grad()
def outputs(
    classifier: Classifier,
    images: Images,
    intervention: Intervention,
    *,
    mask_seed: int = 0,
    batch_size: int = 64,
    tick: Callable[[int], None] = lambda images: None,
) -> Outputs:
    """Features and logits of all images under one intervention; `tick(n)` is called after every batch of n images.

    Sinks chosen from the clean model's attention (`source=clean`) run with a clean lane beside them.
    """
    lanes = [parse("clean"), intervention] if intervention.scope.source == "clean" else [intervention]
    device = next(classifier.model.parameters()).device
    features, logits = [], []
    for rows, pixels in images.batches(batch_size, classifier.transform):
        pixels = pixels.to(device).repeat(len(lanes), 1, 1, 1)
        with attend(classifier.model, lanes, layout=classifier.layout, seed=mask_seed, samples=rows.tolist()):
            feature = classifier.features(pixels)[-len(rows) :]
        features.append(feature.float().cpu().numpy())
        logits.append(classifier.logits(feature).float().cpu().numpy())
        tick(len(rows))
    return Outputs(np.concatenate(features), np.concatenate(logits))


def compare(masked: Outputs, clean: Outputs, label: np.ndarray) -> dict[str, np.ndarray | float]:
    """The variables of one cell (see VARIABLES); a label of -1 leaves what needs it missing."""
    told = label >= 0
    order = top(masked.logits, RANKS)
    right = (order == label[:, None]) & told[:, None]
    log_total = np.logaddexp.reduce(masked.logits.astype(np.float64), axis=1)
    loss = log_total - masked.logits[np.arange(len(label)), np.maximum(label, 0)]
    prediction = np.full((len(label), RANKS), -1)
    prediction[:, : order.shape[1]] = order
    return {
        "prediction": prediction,
        "correct": np.where(told, right[:, 0], -1),
        "correct5": np.where(told, right.any(1), -1),
        "agree": order[:, 0] == top(clean.logits, 1)[:, 0],
        "loss": np.where(told, loss, np.nan),
        "logit_distance": np.linalg.norm(_centred(masked.logits) - _centred(clean.logits), axis=1),
        "feature_fvu": scales.shift(clean.features, masked.features),
        "mmd2": scales.mmd2(scales.unit(masked.features), scales.unit(clean.features)),
    }


def top(logits: np.ndarray, ranks: int) -> np.ndarray:
    """int [n, min(ranks, classes)]: classes by falling logit; equal logits by rising class index."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :ranks]


def _centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(1, keepdims=True)
