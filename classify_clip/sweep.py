"""Runs the cells of a sweep one after another and commits each to the store: classification and retrieval.

Everything that can be wrong with the input is found before the store is made. `--resume` computes only what is missing.
The store itself is `tracer.store`: a cell is its commit unit, so a crash loses at most the cell in work.
Numbers are presented by `analysis.curves`, which reads the store alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from classify_clip import cells as grid
from classify_clip import classify as classification
from classify_clip import retrieve as retrieval
from classify_clip.data import Images, Pairs, coco_captions, held_out, image_folder, match_classes
from classify_clip.models import load_classifier, load_retriever
from interventions import SpecError, attend
from interventions.seam.sites import sites
from tracer import store

Progress = Callable[[int, int], None]
"""Called with (images done, images to do), counted over all cells."""
Outcomes = Mapping[str, tuple[tuple[str, ...], str, dict]]
"""Name -> (dims, cell first, dtype, attributes) of what a task keeps of every cell."""
Compute = Callable[[grid.Cell, Callable[[int], None]], Mapping[str, Any]]


def classify(
    *,
    masks: Sequence[str] = (),
    densities: Sequence[float] = (),
    families: Sequence[str] = (),
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
    progress: Progress | None = None,
) -> Path:
    """Top-1 and top-5, agreement with clean and distances of a timm model under masks; returns the sweep's folder.

    data: a folder in ImageNet's layout; None is the shipped held-out emoji (`split` of them). limit: at most that many
    images. Raises DataError, ModelError, SpecError or RunError before anything is written.
    """
    _positive(limit=limit, batch_size=batch_size)
    images = held_out(split).images() if data is None else image_folder(Path(data))
    classifier = load_classifier(model, checkpoint, device)
    images = match_classes(images, classifier.outputs, classifier.labels).head(limit)
    made = checked_cells(classifier.layout, classifier.model, masks, densities, families, mask_seeds)
    config = configuration("classify", model, classifier.source, classifier.model, images, made, device, batch_size)
    coords = sample_coords(made, images).assign_coords(rank=np.arange(1, classification.RANKS + 1))
    path = prepare(out, f"classify-{model}", resume, coords, classification.VARIABLES, config)
    reference: list[classification.Outputs] = []

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> Mapping[str, Any]:
        options: dict[str, Any] = {"mask_seed": cell.mask_seed, "batch_size": batch_size}
        if not reference:
            reference.append(classification.outputs(classifier, images, made[0].intervention, batch_size=batch_size))
        result = classification.outputs(classifier, images, cell.intervention, tick=tick, **options)
        return classification.compare(result, reference[0], images.label)

    run_cells(path, made, len(images), compute, progress)
    return path


def retrieve(
    *,
    masks: Sequence[str] = (),
    densities: Sequence[float] = (),
    families: Sequence[str] = (),
    mask_seeds: Sequence[int] = (0,),
    model: str = "clip",
    pretrained: str | None = None,
    checkpoint: str | None = None,
    data: str | Path | None = None,
    captions: str | Path | None = None,
    captions_per_image: int | None = 5,
    split: str = "all",
    galleries: Sequence[int] = (),
    tower: str = "image",
    limit: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Ranks both ways and recall against gallery size of an open_clip model under masks; returns the sweep's folder.

    data and captions: an image folder and COCO's captions json or a Karpathy split; None is the shipped held-out emoji
    with their names. galleries: sizes of the curve, by default powers of two up to all. Raises as `classify` does.
    """
    _positive(limit=limit, batch_size=batch_size)
    pairs = _pairs(data, captions, captions_per_image, split).head(limit)
    sizes = list(galleries) or retrieval.gallery_sizes(len(pairs.groups))
    if wrong := [size for size in sizes if not 2 <= size <= len(pairs.groups)]:
        raise SpecError(
            f"gallery {wrong[0]}: a gallery has 2 to {len(pairs.groups)} pairs here, for example --gallery 64"
        )
    retriever = load_retriever(model, pretrained, checkpoint, device)
    acted, layout = retriever.image_tower, retriever.layout
    if tower == "text":
        acted, layout = retriever.text_tower, retriever.text_layout
    made = checked_cells(layout, acted, masks, densities, families, mask_seeds)
    config = configuration("retrieve", model, retriever.source, retriever.model, pairs.images, made, device, batch_size)
    config |= {"captions": str(captions) if captions else "emoji names", "texts": len(pairs.texts), "tower": tower}
    coords = sample_coords(made, pairs.images).assign_coords(
        gallery=sizes,
        direction=list(retrieval.DIRECTIONS),
        image_group=("sample", pairs.image_group),
        text=("text", np.array(pairs.texts)),
        text_group=("text", pairs.text_group),
    )
    path = prepare(out, f"retrieve-{model.replace('/', '-')}", resume, coords, retrieval.VARIABLES, config)
    reference: list[retrieval.Embeddings] = []

    def compute(cell: grid.Cell, tick: Callable[[int], None]) -> Mapping[str, Any]:
        if not reference:
            reference.append(retrieval.embeddings(retriever, pairs, made[0].intervention, batch_size=batch_size))
        options: dict[str, Any] = {"mask_seed": cell.mask_seed, "batch_size": batch_size, "tower": tower}
        result = retrieval.embeddings(retriever, pairs, cell.intervention, known=reference[0], tick=tick, **options)
        return retrieval.compare(result, reference[0], pairs, sizes)

    run_cells(path, made, len(pairs.images), compute, progress)
    return path


def _pairs(data: str | Path | None, captions: str | Path | None, per_image: int | None, split: str) -> Pairs:
    if (data is None) != (captions is None):
        raise SpecError(
            "--captions JSON and --data FOLDER go together: the file's pictures are looked up in the folder"
        )
    if captions is None or data is None:
        return held_out(split).pairs()
    return coco_captions(Path(captions), Path(data), per_image)


def _positive(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise SpecError(f"--{name.replace('_', '-')} {value}: it must be at least 1")


def checked_cells(
    layout: Any,
    module: torch.nn.Module,
    masks: Sequence[str],
    densities: Sequence[float],
    families: Sequence[str],
    seeds: Sequence[int],
) -> list[grid.Cell]:
    """The cells, checked; the seam is entered once with each intervention so that what it refuses is known now."""
    layers = 1 + max((site.layer for site in sites(module)), default=-1)
    made = grid.cells(
        layout, masks=masks, densities=densities, families=families, mask_seeds=seeds or (0,), layers=layers
    )
    if len(made) == 1 and not masks:
        raise SpecError("nothing to do: give --mask SPEC or --density SHARE, for example --mask R4S32")
    for intervention in {cell.spec: cell.intervention for cell in made}.values():
        if intervention.scope.steps is not None:
            raise SpecError(f"{intervention}: classification and retrieval have no steps; leave steps= out")
        with attend(module, intervention, layout=layout):
            pass
    return made


def configuration(
    task: str,
    model: str,
    source: str,
    module: torch.nn.Module,
    images: Images,
    made: Sequence[grid.Cell],
    device: str | None,
    batch_size: int,
) -> dict[str, Any]:
    """What a sweep is, as its store keeps it and `--resume` compares it."""
    return {
        "task": task,
        "model": model,
        "source": source,
        "weights_sha256": fingerprint(module),
        "data": images.source,
        "images": len(images),
        "cells": [f"{cell.spec} seed {cell.mask_seed}" for cell in made],
        "device": device or "default",
        "batch_size": batch_size,
    }


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 of all parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sample_coords(made: Sequence[grid.Cell], images: Images) -> xr.Dataset:
    """Coordinates of the cells and of the pictures."""
    names, label = np.array(images.names), images.label
    told = {"long_name": "index of the class in class_names", "class_names": list(images.classes)}
    return grid.coordinates(made).assign_coords(sample=("sample", names), label=("sample", label, told))


def prepare(
    out: str | Path | None, name: str, resume: bool, coords: xr.Dataset, outcomes: Outcomes, config: dict
) -> Path:
    """Create the store, or check that the existing one is this very sweep and may be resumed; returns its folder."""
    numbered = Path("runs") / name
    path = Path(out) if out is not None else (resume and store.latest_folder(numbered)) or store.free_folder(numbered)
    if path.exists() and resume:
        store.check_resume(path, config, store.SWEEP)
    else:
        create(path, coords, outcomes, config)
    return path


def create(path: Path, coords: xr.Dataset, outcomes: Outcomes, config: dict) -> None:
    """Make an empty sweep at `path`. Raises RunError when it exists.

    coords: a dataset of coordinates only; `spec` along `cell` says what the cells are.
    """
    variables = [
        store.Variable(name, dims, dtype, about["long_name"], about.get("units", "1"))
        for name, (dims, dtype, about) in outcomes.items()
    ]
    given = {str(name): (value.dims, value.values, value.attrs) for name, value in coords.coords.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {str(dim): size for dim, size in coords.sizes.items()}
    store.create(path, variables, sizes, given, {"config": config}, 1, schema=store.SWEEP)


def run_cells(path: Path, cells: Sequence[grid.Cell], images: int, compute: Compute, progress: Progress | None) -> None:
    """Compute and commit the cells that are missing; `images` is how often `tick` counts in each."""
    with store.Writer(path) as writer:
        pending = writer.pending()
        total, seen = images * len(pending), 0

        def tick(n: int) -> None:
            nonlocal seen
            seen += n
            if progress is not None:
                progress(min(seen, total), total)

        for index in pending:
            with writer.unit(index) as buffer:
                outcomes = compute(cells[index], tick)
                buffer.final({name: np.asarray(value)[None] for name, value in outcomes.items()})
