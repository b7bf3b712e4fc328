"""What `score` would take: seconds, disk and memory, from a few pictures that are measured now. Nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from classify_clip.scores.metric import Metric, Weights
from classify_clip.scores.pictures import CLEAN, Pictures
from classify_clip.scores.scoring import lacking
from tracer import store

TRIED = 4
"""Pictures that are measured, of each metric."""
HEADER = 20_000
"""Bytes of a file of scores beside its values, at most; the names of samples and arms are among them."""


@dataclass(frozen=True)
class Cost:
    """Pictures that each metric would look at; seconds and bytes on disk of all of them."""

    pictures: dict[str, int]
    seconds: float
    bytes: int


def cost(
    run: str | Path | xr.DataTree | None = None,
    metrics: str | Sequence[str] | None = None,
    weights: Weights | None = None,
) -> Cost:
    """What is missing of a run's scores, and what measuring it would take; arguments and errors as of `score`.

    Every network is loaded and measures up to `TRIED` pictures; what it takes to load is counted once.
    """
    tree = run if isinstance(run, xr.DataTree) else store.open_run(store.locate(run))
    work = lacking(tree, metrics, weights or {})
    sets = len(work.pictures.arms) + len(work.pictures.replayed)
    counted, seconds, size = {}, 0.0, 0
    for metric, positions in work.missing.items():
        counted[metric.name] = sets * len(positions)
        loading, each, width = _tried(metric, work.pictures.only(positions[:TRIED]), weights or {})
        seconds += loading + each * counted[metric.name]
        size += HEADER + width * sets * len(tree["sample"])
    return Cost(counted, seconds, size)


def _tried(metric: Metric, few: Pictures, weights: Weights) -> tuple[float, float, int]:
    """Seconds to load, seconds a picture, bytes a picture."""
    began = time.perf_counter()
    measure = metric.open(few, weights)
    clean = few.arm(CLEAN)
    opened = time.perf_counter()
    values = np.asarray(measure(clean, clean) if metric.kind == "to clean" else measure(clean))
    return opened - began, (time.perf_counter() - opened) / len(clean), values.nbytes // len(clean)
