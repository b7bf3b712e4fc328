"""Scores the pictures of a run by metrics and keeps the values beside it, for `analysis.quality` to read.

Only what is missing is measured: a metric that has not been, samples that completed since, weights of another name than
those that were used. To measure again, delete `RUN/scores/<metric>.nc`. What the scores say about an arm is analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import xarray as xr

from classify_clip.scores.metric import METRICS, Metric, Weights, choose
from classify_clip.scores.pictures import CLEAN, Pictures, pictures_of
from tracer import store

Progress = Callable[[int, int], None]
"""Called with (arms done, arms to do), counted over all metrics."""
SHIPPED = "shipped"
"""In place of a weight file, for metrics that need none."""


def score(
    run: str | Path | xr.DataTree | None = None,
    metrics: str | Sequence[str] | None = None,
    weights: Weights | None = None,
    *,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Measure what is missing of a run's scores; returns the run with the groups `/scores/<metric>`.

    run: a directory, which gets `scores/<metric>.nc` (None: the latest under ./runs), or an open run, of which nothing
    is written. metrics: names in `METRICS`; None takes all that need only what is shipped and fit the run, and keeps of
    the others why they do not. weights: metric name -> weight file or folder. A group holds `score` (arm, sample) or,
    for metrics of whole sets, `features` (arm, sample, feature), NaN for samples that are not complete. Where pictures
    of the replay were recorded, `replay_score` or `replay_features` hold the same of those.
    Raises ScoreError for an unknown or unfit metric, missing weights, or a run without pictures; RunError for no run.
    """
    path = None if isinstance(run, xr.DataTree) else store.locate(run)
    tree = run if isinstance(run, xr.DataTree) else store.open_run(path)
    stored, weights = _stored(tree), weights or {}
    work = lacking(tree, metrics, weights)
    pictures, missing = work.pictures, work.missing
    groups: dict[str, xr.Dataset] = {}

    def keep(name: str, group: xr.Dataset) -> None:
        groups[f"/scores/{name}"] = group
        if path is not None:
            store.write_scores(path, name, group)

    sets = len(pictures.arms) + len(pictures.replayed)
    for done, (metric, positions) in enumerate(missing.items()):

        def tick(arms: int, before: int = done * sets) -> None:
            if progress:
                progress(before + arms, len(missing) * sets)

        values = _measured(metric, pictures.only(positions), weights, tick)
        keep(metric.name, _group(metric, values, stored.get(metric.name), tree, weights))
    for name, reason in work.left_out.items():
        if not _scored(stored.get(name)):
            keep(name, _left_out(METRICS[name], reason, tree))
    return store.open_run(path) if path else xr.DataTree.from_dict({**tree.to_dict(), **groups}, name=tree.name)


@dataclass(frozen=True)
class Lacking:
    """What a run still lacks: positions among its complete samples by metric; and why other metrics are left out."""

    pictures: Pictures
    missing: Mapping[Metric, np.ndarray]
    left_out: Mapping[str, str]


def lacking(tree: xr.DataTree, metrics: str | Sequence[str] | None, weights: Weights) -> Lacking:
    """What `score` would measure; metrics with nothing to measure are not in it. Raises as `score` does."""
    pictures, stored = pictures_of(tree), _stored(tree)
    chosen, left_out = choose([metrics] if isinstance(metrics, str) else metrics, pictures)
    missing = {metric: _missing(metric, stored.get(metric.name), pictures, weights) for metric in chosen}
    return Lacking(pictures, {metric: at for metric, at in missing.items() if at.size}, left_out)


def _stored(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The scores the run has: metric -> its group."""
    if "scores" not in tree.children:
        return {}
    return {name: node.to_dataset() for name, node in tree["scores"].children.items()}


def _scored(group: xr.Dataset | None) -> bool:
    """Whether a group holds values, and not only why there are none."""
    return group is not None and "left_out" not in group.attrs


def _missing(metric: Metric, group: xr.Dataset | None, pictures: Pictures, weights: Weights) -> np.ndarray:
    """Positions among the complete samples that are still to be measured."""
    everything = np.arange(len(pictures.samples))
    if group is None or not _scored(group) or not _same_weights(metric, group, weights):
        return everything
    wanted = {_variable(metric): pictures.arms, f"replay_{_variable(metric)}": pictures.replayed}
    lacking = np.zeros(len(everything), bool)
    for variable, arms in wanted.items():
        if arms and variable not in group:
            return everything
        values = group[variable].sel(arm=arms, sample=pictures.samples) if arms else None
        if values is not None:
            absent = values.isnull().any([dim for dim in values.dims if dim not in ("arm", "sample")])
            asked = np.stack([pictures.of(arm) for arm in arms])
            lacking |= (absent.transpose("arm", "sample").values & asked).any(axis=0)
    return everything[lacking]


def _measured(metric: Metric, pictures: Pictures, weights: Weights, tick: Callable[[int], None]) -> xr.Dataset:
    """Values of these pictures and of their replays: (arm, sample), and feature for sets."""
    measure = metric.open(pictures, weights)
    clean = pictures.arm(CLEAN)
    done = count(1)

    def of(arms: list[str], images: Callable[[str], np.ndarray]) -> xr.DataArray:
        rows = []
        for arm in arms:
            values = measure(images(arm), clean) if metric.kind == "to clean" else measure(images(arm))
            rows.append(_where(pictures.of(arm), values))
            tick(next(done))
        dims = ("arm", "sample", "feature") if metric.kind == "set" else ("arm", "sample")
        return xr.DataArray(np.stack(rows), dims=dims, coords={"arm": arms, "sample": pictures.samples})

    variable = _variable(metric)
    values = {variable: of(pictures.arms, pictures.arm)}
    if pictures.replayed:
        values[f"replay_{variable}"] = of(pictures.replayed, pictures.replay).reindex(arm=pictures.arms)
    return xr.Dataset(values)


def _where(run: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values [sample, ...] of an arm, NaN for samples that it is not run on; run: bool [sample]."""
    return values if run.all() else np.where(run.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)


def _group(
    metric: Metric, values: xr.Dataset, stored: xr.Dataset | None, tree: xr.DataTree, weights: Weights
) -> xr.Dataset:
    """The whole group of a metric: new values beside those kept, over all arms and samples of the run."""
    values = values.reindex(arm=tree["arm"].values, sample=tree["sample"].values)
    if stored is not None and _scored(stored) and _same_weights(metric, stored, weights):
        values = values.fillna(stored[[name for name in values.data_vars if name in stored]].load())
    return values.assign_attrs(_attributes(metric) | {"weights": _weights(metric, weights)})


def _left_out(metric: Metric, reason: str, tree: xr.DataTree) -> xr.Dataset:
    """A group without values, which says why."""
    coords = {name: tree.coords[name].values for name in ("arm", "sample")}
    values = np.full([coord.size for coord in coords.values()], np.nan)
    return xr.Dataset({"score": (("arm", "sample"), values)}, coords, _attributes(metric) | {"left_out": reason})


def _attributes(metric: Metric) -> dict[str, str | bool | int]:
    """What analysis needs to know of a metric; `position` is its place in tables."""
    attributes: dict[str, str | bool | int] = {
        "name": metric.name,
        "title": metric.title,
        "kind": metric.kind,
        "higher_is_better": metric.higher_is_better,
        "position": list(METRICS).index(metric.name),
    }
    return attributes if metric.distance is None else attributes | {"distance": metric.distance}


def _variable(metric: Metric) -> str:
    return "features" if metric.kind == "set" else "score"


def _weights(metric: Metric, weights: Weights) -> str:
    """Name of the weight file that is used."""
    if metric.source is None:
        return SHIPPED
    named = Path(weights.get(metric.name, metric.source.file))
    return metric.source.file if named.is_dir() else named.name


def _same_weights(metric: Metric, group: xr.Dataset, weights: Weights) -> bool:
    return metric.name not in weights or group.attrs.get("weights") == _weights(metric, weights)
