"""Runs the cells of a sweep one after another and commits each to the store, whatever the task.

Everything that can be wrong with the input is found before the store is made, and `--resume` computes only what is
missing. The store itself is `tracer.store`: a cell is its commit unit, so a crash loses at most the cell in work. The
tasks are `classification`, `retrieval`, `one_pass` and `generation`; numbers are presented by `analysis.curves`, which
reads the store alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from classify_clip import cells as grid
from classify_clip.data import Images
from interventions import SpecError, attend
from interventions.seam.sites import sites
from tracer import store

Progress = Callable[[int, int], None]
"""Called with (images done, images to do), counted over all cells."""
Outcomes = Mapping[str, tuple[tuple[str, ...], str, dict]]
"""Name -> (dims, cell first, dtype, attributes) of what a task keeps of every cell."""
Compute = Callable[[grid.Cell, Callable[[int], None]], Mapping[str, Any]]


def check_positive(**numbers: int | None) -> None:
    """Raise SpecError for an option (by its name) that is below 1; None is no limit."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise SpecError(f"--{name.replace('_', '-')} {value}: it must be at least 1")


def checked_cells(
    layout: Any,
    module: torch.nn.Module,
    masks: str | Sequence[str],
    densities: Sequence[float],
    families: str | Sequence[str],
    seeds: Sequence[int],
) -> list[grid.Cell]:
    """The cells, checked; the seam is entered once with each intervention so that what it refuses is known now."""
    layers = 1 + max((site.layer for site in sites(module)), default=-1)
    cells = grid.cells(
        layout, masks=masks, densities=densities, families=families, mask_seeds=seeds or (0,), layers=layers
    )
    if len(cells) == 1 and not masks:
        raise SpecError("nothing to do: give --mask SPEC or --density SHARE, for example --mask R4S32")
    for intervention in {cell.spec: cell.intervention for cell in cells}.values():
        if intervention.scope.steps is not None:
            raise SpecError(f"{intervention}: classification and retrieval have no steps; leave steps= out")
        with attend(module, intervention, layout=layout):
            pass
    return cells


def configuration(
    task: str,
    model: str,
    source: str,
    module: torch.nn.Module,
    images: Images,
    cells: Sequence[grid.Cell],
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
        "cells": [f"{cell.spec} seed {cell.mask_seed}" for cell in cells],
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


def sample_coords(cells: Sequence[grid.Cell], images: Images) -> xr.Dataset:
    """Coordinates of the cells and of the pictures."""
    names, label = np.array(images.names), images.label
    about = {"long_name": "index of the class in class_names", "class_names": list(images.classes)}
    return grid.coordinates(cells).assign_coords(sample=("sample", names), label=("sample", label, about))


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
    store.mend(path, store.verify(path, contents=False), lambda report: warnings.warn(str(report), stacklevel=2))
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
