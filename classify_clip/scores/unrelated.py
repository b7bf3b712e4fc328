"""How far apart two clean pictures are that have nothing to do with each other, by metrics that compare with clean.

The unit in which `analysis.gate` measures the distance of an arm to clean. It is measured where it is asked for, once,
and kept beside the scores as `unrelated_score` (sample): the distance of the sample's clean picture to that of the next
sample, which has another seed and mostly another prompt or class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from classify_clip.scores.metric import METRICS, Metric, Weights
from classify_clip.scores.networks import kept
from classify_clip.scores.pictures import CLEAN, Pictures, pictures_of
from classify_clip.scores.scoring import AT_ONCE, Progress
from tracer import store

UNRELATED = "unrelated_score"


def add_unrelated(
    run: str | Path | None = None, weights: Weights | None = None, *, device: str | None = None,
    progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Measure what is missing of `unrelated_score` in all scores "to clean" of a run; returns the metrics measured.

    weights, device, progress: as of `score`. Raises ScoreError for missing weights. Nothing is measured of one sample.
    """
    path = store.locate(run)
    lacking = [(name, group) for name, group in store.read_scores(path).items() if _lacks(name, group)]
    if not lacking:
        return []
    pictures = replace(pictures_of(store.open_run(path)), device=device)
    n, done = len(pictures.samples), 0
    if n < 2:
        return []
    for name, group in lacking:
        rows = []
        with kept():
            for at in range(0, n, AT_ONCE):
                rows.append(_distances(METRICS[name], pictures, np.arange(at, min(at + AT_ONCE, n)), weights or {}))
                done += len(rows[-1])
                if progress:
                    progress(done, n * len(lacking))
        values = xr.DataArray(np.concatenate(rows), dims="sample", coords={"sample": pictures.samples})
        whole = values.reindex(sample=group["sample"].values)
        store.write_scores(path, name, group.load().assign({UNRELATED: whole}))
    return [name for name, _ in lacking]


def _lacks(name: str, group: xr.Dataset) -> bool:
    """Whether a group of distances to clean has samples with a score and without the unit."""
    if name not in METRICS or group.attrs.get("kind") != "to clean" or "left_out" in group.attrs:
        return False
    if group.attrs.get("higher_is_better"):
        return False
    scored = group["score"].sel(arm=CLEAN).notnull()
    return UNRELATED not in group or bool((scored & group[UNRELATED].isnull()).any())


def _distances(metric: Metric, pictures: Pictures, here: Sequence[int] | np.ndarray, weights: Weights) -> np.ndarray:
    """Distance [n] of the clean pictures at these positions to those of the next samples."""
    own, others = pictures.only(np.asarray(here)), pictures.only((np.asarray(here) + 1) % len(pictures.samples))
    return metric.open(own, weights)(others.arm(CLEAN), own.arm(CLEAN))
