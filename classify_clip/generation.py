"""Scores the pictures of saved runs like a sweep: does the judge still see the class, how far did the features move.

Generation so becomes one more task beside classification and retrieval, with the same cells and the same store. Reads
runs that `tracer.trace` wrote; generates nothing. The judge and the embedded CLIP read 32 x 32 pictures only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from classify_clip import cells as grid
from classify_clip import distances, sweep
from classify_clip.data import DataError, held_out
from classify_clip.models import load_retriever
from classify_clip.scores import judge
from classify_clip.scores.embedded_clip import embed
from interventions import TokenLayout, parse
from tracer import store

LAYOUT = TokenLayout((16, 16))
VARIABLES: dict[str, tuple[tuple[str, ...], str, dict]] = {
    "prediction": (("cell", "sample"), "int32", {"long_name": "class the judge sees"}),
    "correct": (("cell", "sample"), "int8", {"long_name": "the judge sees the class that was asked for"}),
    "feature_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared shift of the picture's embedded-CLIP features over their clean variance", "units": "1"},
    ),
    "unrelated_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared distance to the clean features of other pictures of the class, in the same units"},
    ),
    "pixel_fvu": (
        ("cell", "sample"),
        "float32",
        {"long_name": "squared shift of the picture over the variance of clean pictures", "units": "1"},
    ),
    "mmd2": (
        ("cell",),
        "float32",
        {"long_name": "squared MMD of features to the clean pictures, sigma 10, times 1000"},
    ),
    "mmd2_real": (
        ("cell",),
        "float32",
        {"long_name": "squared MMD of features to held-out drawings, balanced classes"},
    ),
}


def score_runs(
    runs: Sequence[xr.DataTree],
    out: Path,
    *,
    targets: Mapping[str, float] | None = None,
    layout: TokenLayout = LAYOUT,
    name: str | None = None,
    resume: bool = False,
) -> Path:
    """Score runs of one model that differ in mask seed and arms only; returns the sweep's folder.

    targets: spec -> density that was asked for. name: of the model, where that of its family is not enough. resume: go
    on with a sweep at `out`, if there is one. Raises DataError for runs without pictures or classes, or of different
    samples, and RunError when `out` exists or holds other cells.
    """
    config, pictures, label = _pictures(runs)
    cells = _cells(pictures, targets or {}, layout)
    config["model"] = name or config["model"]
    config["cells"] = [f"{cell.spec} seed {cell.mask_seed}" for cell in cells]
    clip = load_retriever(device="cpu")
    clean = pictures[cells[0].mask_seed]["clean"]
    features = embed(clip, clean)
    real = embed(clip, balanced_reference())
    coords = grid.coordinates(cells).assign_coords(
        sample=np.arange(len(label)), label=("sample", label, {"class_names": list(judge.class_names())})
    )
    sweep.prepare(out, "generate", resume, coords, VARIABLES, config)

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> dict[str, Any]:
        images = pictures[cell.mask_seed][cell.spec]
        predicted, feature = judge.seen(images), embed(clip, images)
        return {
            "prediction": predicted,
            "correct": predicted == label,
            "feature_fvu": distances.shift(features, feature),
            "unrelated_fvu": distances.unrelated(features, feature, label),
            "pixel_fvu": distances.shift(_flat(clean), _flat(images)),
            "mmd2": distances.mmd2(feature, features),
            "mmd2_real": distances.mmd2(feature, real),
        }

    sweep.run_cells(out, cells, len(label), compute, None)
    return out


def _pictures(runs: Sequence[xr.DataTree]) -> tuple[dict, dict[int, dict[str, np.ndarray]], np.ndarray]:
    """Configuration of the sweep, pictures by mask seed and spec (uint8 [sample, y, x, rgb]), class of each sample."""
    pictures: dict[int, dict[str, np.ndarray]] = {}
    configs = [json.loads(run.attrs["config"]) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if "images" not in run.children:
            raise DataError("the run holds no pictures; make it with --record images")
        if "class_label" not in run.coords:
            raise DataError("the run's samples have no class for the judge to check")
        changed = [
            key
            for key in ("model", "samples", "steps", "sampler", "guidance", "seed")
            if config[key] != configs[0][key]
        ]
        if changed:
            raise DataError(f"the runs differ in {', '.join(changed)}; score runs that differ in masks only")
        root = run.to_dataset()
        whole = root["status"].isin((store.STATUS_COMPLETE, store.STATUS_UNASKED)).all("arm").values
        if not whole.all():
            raise DataError(f"{int((~whole).sum())} samples of the run are not complete; resume it first")
        images = run["images"].to_dataset()["image"]
        by_spec = pictures.setdefault(int(config["mask_seed"]), {})
        for index, spec in enumerate(root["arm"].values.tolist()):
            if (root["status"].isel(arm=index) == store.STATUS_UNASKED).any():  # the floor, run on a few samples only
                continue
            by_spec[str(spec)] = images.isel(arm=index).values.astype(np.uint8)
    first = configs[0]
    kept = {key: first[key] for key in ("model", "checkpoint", "samples", "steps", "sampler", "guidance", "seed")}
    kept |= {
        "task": "generate",
        "source": str(first["checkpoint"]["id"]),
        "images": first["samples"],
        "data": "samples",
    }
    return kept, pictures, runs[0].to_dataset()["class_label"].values.astype(np.int64)


def _cells(
    pictures: Mapping[int, Mapping[str, np.ndarray]], targets: Mapping[str, float], layout: TokenLayout
) -> list[grid.Cell]:
    """A cell per spec and mask seed; a spec without chance counts once, from the first run that has it."""
    cells: dict[tuple[str, int], grid.Cell] = {}
    for seed, by_spec in pictures.items():
        for spec in by_spec:
            cell = _cell(spec, seed, targets, layout)
            cells.setdefault((spec, seed if cell.intervention.drawn else -1), cell)
    return list(cells.values())


def _cell(spec: str, seed: int, targets: Mapping[str, float], layout: TokenLayout) -> grid.Cell:
    intervention = parse(spec)
    share, whole = grid.densities_of(intervention, layout, seed)
    return grid.Cell(intervention, intervention.family, targets.get(spec, float("nan")), seed, share, whole)


def balanced_reference() -> np.ndarray:
    """Held-out drawings, the same number of every class (of the rarest), evenly spread: uint8 [n, 32, 32, 3]."""
    data = held_out()
    count = np.bincount(data.label).min()
    rows = [np.flatnonzero(data.label == k) for k in range(len(data.classes))]
    return np.concatenate([data.pixels[row[np.arange(count) * len(row) // count]] for row in rows])


def _flat(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1).astype(np.float64)
