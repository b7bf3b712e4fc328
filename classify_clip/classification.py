"""Classification under masks: per-sample predictions of a timm model, agreement with clean, distances.

`classify` is the whole sweep, `outputs` and `compare` are one cell of it. The clean cell runs through the same seam as
the others, so both arms use one attention kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classify_clip import cells as grid
from classify_clip import distances, sweep
from classify_clip.data import Images, held_out, image_folder, match_classes
from classify_clip.models import Classifier, load_classifier
from interventions import Intervention, attend

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
    "unrelated_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared distance to the clean features of other pictures, in the same units"},
    ),
    "mmd2": (("cell",), "float32", {"long_name": "squared MMD of unit features to clean, sigma 10, times 1000"}),
}


@dataclass(frozen=True)
class Outputs:
    """What a model says of every image: features [n, width], logits [n, classes], float32."""

    features: np.ndarray
    logits: np.ndarray


def classify(
    *,
    masks: str | Sequence[str] = (),
    densities: Sequence[float] = (),
    families: str | Sequence[str] = (),
    mask_seeds: Sequence[int] = (0,),
    model: str = "vit",
    checkpoint: str | None = None,
    data: str | Path | None = None,
    split: str = "all",
    limit: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: sweep.Progress | None = None,
    begin: sweep.Begin | None = None,
) -> Path:
    """Top-1 and top-5, agreement with clean and distances of a timm model under masks; returns the sweep's folder.

    data: a folder in ImageNet's layout; None is the shipped held-out emoji (`split` of them). limit: at most that many
    images. begin: asked, when all is checked, whether to begin. Raises DataError, ModelError, SpecError, PlaceError or
    RunError before anything is written.
    """
    sweep.check_positive(limit=limit, batch_size=batch_size)
    images = held_out(split).images() if data is None else image_folder(Path(data))
    classifier = load_classifier(model, checkpoint, device)
    images = match_classes(images, classifier.outputs, classifier.labels).head(limit)
    cells = sweep.checked_cells(classifier.layout, classifier.model, masks, densities, families, mask_seeds)
    config = sweep.configuration(
        "classify", model, classifier.source, classifier.model, images, cells, device, batch_size
    )
    coords = sweep.sample_coords(cells, images).assign_coords(rank=np.arange(1, RANKS + 1))
    reference: list[Outputs] = []

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> Mapping[str, Any]:
        options: dict[str, Any] = {"mask_seed": cell.mask_seed, "batch_size": batch_size}
        if not reference:
            reference.append(outputs(classifier, images, cells[0].intervention, batch_size=batch_size))
        result = outputs(classifier, images, cell.intervention, tick=tick, **options)
        return compare(result, reference[0], images.label)

    name = f"classify-{model}"
    path = sweep.place(out, name, resume)
    work = sweep.Work(path, cells, len(images), coords, VARIABLES, config, compute, "" if out else name)
    return sweep.perform(work, resume, progress, begin)


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
    lanes = [*intervention.looks_at, intervention]
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
    labelled = label >= 0
    order = top(masked.logits, RANKS)
    right = (order == label[:, None]) & labelled[:, None]
    log_total = np.logaddexp.reduce(masked.logits.astype(np.float64), axis=1)
    loss = log_total - masked.logits[np.arange(len(label)), np.maximum(label, 0)]
    prediction = np.full((len(label), RANKS), -1)
    prediction[:, : order.shape[1]] = order
    return {
        "prediction": prediction,
        "correct": np.where(labelled, right[:, 0], -1),
        "correct5": np.where(labelled, right.any(1), -1),
        "agree": order[:, 0] == top(clean.logits, 1)[:, 0],
        "loss": np.where(labelled, loss, np.nan),
        "logit_distance": np.linalg.norm(_centred(masked.logits) - _centred(clean.logits), axis=1),
        "feature_fvu": distances.shift(clean.features, masked.features),
        "unrelated_fvu": distances.unrelated(clean.features, masked.features),
        "mmd2": distances.mmd2(distances.unit(masked.features), distances.unit(clean.features)),
    }


def top(logits: np.ndarray, ranks: int) -> np.ndarray:
    """int [n, min(ranks, classes)]: classes by falling logit; equal logits by rising class index."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :ranks]


def _centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(1, keepdims=True)
