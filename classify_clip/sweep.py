"""Runs the cells of a sweep one after another and commits each to the store, whatever the task.

Everything that can be wrong with the input is found before the store is made, and `--resume` computes only what is
missing. The store itself is `tracer.store`: a cell is its commit unit, so a crash loses at most the cell in work. The
tasks are `classification`, `retrieval`, `one_pass` and `generation`; numbers are presented by `analysis.curves`, which
reads the store alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from tracer.store.places import check_folder, check_new_folder, expanded, occupied

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
            raise SpecError(
                f"{intervention}: classification and retrieval have no steps; leave steps= out, as in --mask R4S32"
            )
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


@dataclass(frozen=True)
class Work:
    """A sweep, checked and ready to run; nothing of it is written yet.

    images: how often each cell ticks. name: under runs/, numbered when taken; empty where --out names the folder.
    """

    path: Path
    cells: Sequence[grid.Cell]
    images: int
    coords: xr.Dataset
    outcomes: Outcomes
    config: dict
    compute: Compute
    name: str = ""

    @property
    def bytes(self) -> int:
        """What the store takes on disk at most."""
        return store.estimate_bytes(_variables(self.outcomes), _sizes(self.coords))

    def seconds(self) -> float:
        """What all cells take: the time of one batch of the clean cell, the second where there are two."""
        ticks: list[tuple[float, int]] = [(time.perf_counter(), 0)]

        def tick(n: int) -> None:
            ticks.append((time.perf_counter(), n))
            if len(ticks) > 2:
                raise _Enough

        with contextlib.suppress(_Enough):
            self.compute(self.cells[0], tick)
        (before, _), (after, n) = ticks[-2:]
        return (after - before) / n * self.images * len(self.cells)


class _Enough(Exception):
    """Raised out of a computation that was only to be timed."""


Begin = Callable[[Work], bool]
"""Asked when all is checked and nothing written yet, whether to begin."""


def perform(work: Work, resume: bool, progress: Progress | None, begin: Begin | None = None) -> Path:
    """Create or continue the store and compute what is missing, unless `begin` says no; returns its folder."""
    path = work.path
    if not (resume and occupied(path)):
        (check_folder if resume else check_new_folder)(path)
    if begin is None or begin(work):
        path = prepare(None if work.name else path, work.name, resume, work.coords, work.outcomes, work.config)
        run_cells(path, work.cells, work.images, work.compute, progress)
    return path


def place(out: str | Path | None, name: str, resume: bool) -> Path:
    """Where a sweep goes: `out`, else runs/NAME, numbered when taken, the latest to resume."""
    numbered = Path("runs") / name
    if out is not None:
        return store.local(expanded(out))
    return (resume and store.latest_folder(numbered)) or store.free_folder(numbered)


def prepare(
    out: str | Path | None, name: str, resume: bool, coords: xr.Dataset, outcomes: Outcomes, config: dict
) -> Path:
    """Create the store, or check that the existing one is this very sweep and may be resumed; returns its folder.

    Of many processes that start at once, each gets a name of its own where none is named, and with `resume` one creates
    the sweep and the others join it.
    """
    path = place(out, name, resume)
    if out is None and not resume:
        return store.at_free_folder(Path("runs") / name, lambda path: create(path, coords, outcomes, config))
    if not (resume and occupied(path)):
        try:
            create(path, coords, outcomes, config)
        except store.TakenError:
            if not resume:
                raise
        else:
            return path
    store.check_resume(path, config, store.SWEEP)
    return path


def create(path: Path, coords: xr.Dataset, outcomes: Outcomes, config: dict) -> None:
    """Make an empty sweep at `path`. Raises RunError when it exists.

    coords: a dataset of coordinates only; `spec` along `cell` says what the cells are.
    """
    given = {str(name): (value.dims, value.values, value.attrs) for name, value in coords.coords.items()}
    store.create(path, _variables(outcomes), _sizes(coords), given, {"config": config}, 1, schema=store.SWEEP)


def _variables(outcomes: Outcomes) -> list[store.Variable]:
    return [
        store.Variable(name, dims, dtype, about["long_name"], about.get("units", "1"))
        for name, (dims, dtype, about) in outcomes.items()
    ]


def _sizes(coords: xr.Dataset) -> dict[str, int]:
    return {str(dim): size for dim, size in coords.sizes.items()}


def run_cells(path: Path, cells: Sequence[grid.Cell], images: int, compute: Compute, progress: Progress | None) -> None:
    """Compute and commit the cells that are missing, together with whoever else is at work on the sweep.

    `images` is how often `tick` counts in each.
    """
    store.mend(path, store.verify(path, contents=False), lambda report: warnings.warn(str(report), stacklevel=2))
    with store.Writer(path) as writer:
        pending = writer.pending()
        finished = 0

        def tell(seen: int) -> None:
            if progress is not None:
                progress(finished * images + min(seen, images), images * len(pending))

        def fill(cell: int, buffer: store.UnitBuffer) -> None:
            seen = 0

            def tick(n: int) -> None:
                nonlocal seen
                seen += n
                tell(seen)

            outcomes = compute(cells[cell], tick)
            buffer.final({name: np.asarray(value)[None] for name, value in outcomes.items()})

        def done(cell: int) -> None:
            nonlocal finished
            finished += 1
            tell(0)

        store.share(writer, pending, fill, done=done)
