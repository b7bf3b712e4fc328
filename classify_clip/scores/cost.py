"""What `score` would take: seconds, disk and memory, from a few pictures that are measured now. Nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from classify_clip.scores.metric import Metric, Weights, choose
from classify_clip.scores.pictures import CLEAN, Pictures
from classify_clip.scores.scoring import Lacking, compared, lacking
from tracer import store

TRIED = 4
"""Pictures that are measured, of each metric."""
SLOW = 1.0
"""Seconds a picture from which on they are measured once; else twice, since a first call does other things too."""
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
    *,
    reference: str | Path | None = None,
    device: str | None = None,
) -> Cost:
    """What is missing of a run's scores, and what measuring it would take; arguments and errors as of `score`.

    Every network is loaded and measures up to `TRIED` pictures; what it takes to load is counted once.
    """
    tree = run if isinstance(run, xr.DataTree) else store.open_run(store.locate(run))
    return _cost(lacking(tree, metrics, weights or {}, reference, device), weights or {})


def cost_of_expected(
    arms: int,
    samples: int,
    size: tuple[int, int],
    metrics: Sequence[str] | None = None,
    weights: Weights | None = None,
    *,
    reference: str | Path | None = None,
    device: str | None = None,
) -> Cost:
    """The same of a run that is not there yet: so many arms, clean among them, of pictures (y, x).

    Which metrics fit is for the run itself to say: here every sample has a prompt and a class that the judge knows.
    """
    from classify_clip.scores.judge import class_names

    shape = {"arm": arms, "sample": samples, "image_y": size[0], "image_x": size[1], "rgb": 3}
    coords = {"arm": [CLEAN, *(f"arm {k}" for k in range(1, arms))], "sample": np.arange(samples)}
    black = np.broadcast_to(np.uint8(0), tuple(shape.values()))
    pictures = Pictures(
        xr.DataArray(black, dims=list(shape), coords=coords), None, frames=None, classes=class_names()[:1] * samples,
        prompts=("a photo of a thing beside another",) * samples, asked=np.ones((arms, samples), bool), embedded=False,
        device=device,
    )  # fmt: skip
    chosen, left_out = choose(metrics, pictures)
    missing = {metric: np.arange(samples) for metric in chosen}
    return _cost(Lacking(pictures, missing, compared(chosen, reference), left_out), weights or {})


def _cost(work: Lacking, weights: Weights) -> Cost:
    few = work.pictures.only(np.arange(min(TRIED, len(work.pictures.samples))))
    counted = {metric: work.pictures_by(metric) for metric in work.missing if work.pictures_by(metric)}
    seconds, size = 0.0, 0
    for metric, pictures in counted.items():
        loading, each, width = _tried(metric, few, weights)
        seconds += loading + each * pictures
        size += HEADER + width * pictures
    return Cost({metric.name: pictures for metric, pictures in counted.items()}, seconds, size)


def _tried(metric: Metric, few: Pictures, weights: Weights) -> tuple[float, float, int]:
    """Seconds to load, seconds a picture, bytes a picture."""
    began = time.perf_counter()
    measure = metric.open(few, weights)
    clean = few.arm(CLEAN)
    loading = time.perf_counter() - began
    each: list[float] = []
    while len(each) < 2 and (not each or each[0] < SLOW):
        began = time.perf_counter()
        values = np.asarray(measure(clean, clean) if metric.kind == "to clean" else measure(clean))
        each.append((time.perf_counter() - began) / len(clean))
    return loading, each[-1], values.nbytes // len(clean)
