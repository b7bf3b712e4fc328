"""Scores the pictures of a run by metrics and keeps the values beside it, for `analysis.quality` to read.

Only what is missing is measured: a metric that has not been, samples that completed since, weights of another name than
those that were used. To measure again, delete `RUN/scores/<metric>.nc`. What the scores say about an arm is analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from classify_clip.scores.metric import METRICS, Metric, Weights, choose
from classify_clip.scores.networks import kept
from classify_clip.scores.pictures import CLEAN, Pictures, pictures_of
from classify_clip.scores.references import Reference, open_reference
from classify_clip.scores.weights import ScoreError
from tracer import store

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures to do), counted over all metrics."""
Tick = Callable[[int], None]
"""Called with how many pictures were measured just now."""
AT_ONCE = 32
"""Samples of which the pictures of one arm, and of the clean one, are in memory together."""
REFERENCE = "reference_features"
SHIPPED = "shipped"
"""In place of a weight file, for metrics that need none."""


def score(
    run: str | Path | xr.DataTree | None = None,
    metrics: str | Sequence[str] | None = None,
    weights: Weights | None = None,
    *,
    reference: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Measure what is missing of a run's scores; returns the run with the groups `/scores/<metric>`.

    run: a directory, which gets `scores/<metric>.nc` (None: the latest under ./runs), or an open run, of which nothing
    is written. metrics: names in `METRICS`; None takes all that need only what is shipped and fit the run, and keeps of
    the others why they do not. weights: metric name -> weight file or folder. A group holds `score` (arm, sample) or,
    for metrics of whole sets, `features` (arm, sample, feature), NaN for samples that are not complete. Where pictures
    of the replay were recorded, `replay_score` or `replay_features` hold the same of those; where pictures of the
    predictions were, `score_by_step` (arm, sample, frame_step) or `features_by_step` do, each frame compared with the
    clean one of its step.
    reference: a folder of pictures, or "held-out" for the shipped drawings, that sets are compared with; a group then
    holds its `reference_features` (reference, feature) too, in place of those of an earlier one, and in its attributes
    `reference` (the folder's name), `reference_pictures` and `reference_digest`.
    device: where large networks run; default: CUDA where there is one, else the CPU.
    Raises ScoreError for an unknown or unfit metric, missing weights, a run without pictures or a reference that cannot
    be read; RunError for no run, DeviceError for a device that cannot be used.
    """
    if device is not None:
        from tracer.denoisers import usable_device

        usable_device(device)
    path = None if isinstance(run, xr.DataTree) else store.locate(run)
    tree = run if isinstance(run, xr.DataTree) else store.open_run(path)
    stored, weights = _stored(tree), weights or {}
    work = lacking(tree, metrics, weights, reference, device)
    pictures, missing, compared = work.pictures, work.missing, work.compared
    groups: dict[str, xr.Dataset] = {}
    done, total = 0, sum(work.pictures_by(metric) for metric in missing)

    def keep(name: str, group: xr.Dataset) -> None:
        groups[f"/scores/{name}"] = group
        if path is not None:
            store.write_scores(path, name, group)

    def tick(measured: int) -> None:
        nonlocal done
        done += measured
        if progress:
            progress(done, total)

    for metric, positions in missing.items():
        if not positions.size and metric not in compared:
            continue
        with kept():
            values = _measured(metric, pictures.only(positions), weights, tick) if positions.size else None
            group = _group(metric, values, stored.get(metric.name), tree, weights)
            if metric in compared:
                measure = metric.open(pictures.only(np.arange(1)), weights)
                group = _with_reference(group, compared[metric], measure, tick)
        keep(metric.name, group)
    for name, reason in work.left_out.items():
        if not _scored(stored.get(name)):
            keep(name, _left_out(METRICS[name], reason, tree))
    return store.open_run(path) if path else xr.DataTree.from_dict({**tree.to_dict(), **groups}, name=tree.name)


@dataclass(frozen=True)
class Lacking:
    """What a run still lacks: by metric, positions among its complete samples, perhaps none, and the reference whose
    features it has not; and why other metrics are left out."""

    pictures: Pictures
    missing: Mapping[Metric, np.ndarray]
    compared: Mapping[Metric, Reference]
    left_out: Mapping[str, str]

    def pictures_by(self, metric: Metric) -> int:
        """How many pictures a metric has to look at: of every arm, its replay and predictions, and of the reference."""
        per_sample = len(self.pictures.arms) * (1 + len(self.pictures.frame_steps)) + len(self.pictures.replayed)
        return per_sample * len(self.missing[metric]) + len(self.compared.get(metric, ()))


def lacking(
    tree: xr.DataTree,
    metrics: str | Sequence[str] | None,
    weights: Weights,
    reference: str | Path | None = None,
    device: str | None = None,
) -> Lacking:
    """What `score` would measure. Raises as it does."""
    pictures, stored = replace(pictures_of(tree), device=device), _stored(tree)
    chosen, left_out = choose([metrics] if isinstance(metrics, str) else metrics, pictures)
    missing = {metric: _missing(metric, stored.get(metric.name), pictures, weights) for metric in chosen}
    return Lacking(pictures, missing, _to_compare(chosen, stored, weights, reference), left_out)


def compared(metrics: Sequence[Metric], reference: str | Path | None) -> Mapping[Metric, Reference]:
    """The sets among the metrics, with the reference they are compared with; of a run that has no scores yet."""
    return _to_compare(metrics, {}, {}, reference)


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
    wanted |= {f"{_variable(metric)}_by_step": pictures.arms} if pictures.frame_steps else {}
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


def _to_compare(
    metrics: Sequence[Metric], stored: dict[str, xr.Dataset], weights: Weights, name: str | Path | None
) -> dict[Metric, Reference]:
    """The metrics of sets whose scores do not hold the features of this reference yet. Raises ScoreError."""
    if name is None:
        return {}
    sets = [metric for metric in metrics if metric.kind == "set"]
    if not sets:
        fitting = ", ".join(metric.name for metric in METRICS.values() if metric.kind == "set")
        raise ScoreError(f"--reference goes with metrics of whole sets: add `--metric` with one of {fitting}")
    reference = open_reference(name)
    held = {
        metric: group.attrs.get("reference_digest")
        for metric in sets
        if (group := stored.get(metric.name)) is not None and _same_weights(metric, group, weights)
    }
    return {metric: reference for metric in sets if held.get(metric) != reference.digest}


def _with_reference(
    group: xr.Dataset, reference: Reference, measure: Callable[[np.ndarray], np.ndarray], tick: Tick
) -> xr.Dataset:
    """A group with the features of a reference, in place of those of another."""
    features = reference.features(measure, tick)
    about = {"reference": reference.name, "reference_pictures": len(reference), "reference_digest": reference.digest}
    group = group.drop_vars(REFERENCE, errors="ignore")
    return group.assign({REFERENCE: (("reference", "feature"), features)}).assign_attrs(about)


def _measured(metric: Metric, pictures: Pictures, weights: Weights, tick: Tick) -> xr.Dataset:
    """Values of these pictures, of their replays and of their predictions, some samples at a time."""
    everything = np.arange(len(pictures.samples))
    pieces = [everything[start : start + AT_ONCE] for start in range(0, len(everything), AT_ONCE)]
    return xr.concat([_piece(metric, pictures.only(rows), weights, tick) for rows in pieces], dim="sample")


def _piece(metric: Metric, pictures: Pictures, weights: Weights, tick: Tick) -> xr.Dataset:
    """`_measured` of few samples: pictures of one arm and of the clean one are in memory, whatever the arms."""
    measure = metric.open(pictures, weights)

    def of(arms: list[str], images: Callable[[str], np.ndarray], clean: np.ndarray) -> xr.DataArray:
        rows = []
        for arm in arms:
            values = measure(images(arm), clean) if metric.kind == "to clean" else measure(images(arm))
            rows.append(_where(pictures.of(arm), values))
            tick(len(pictures.samples))
        dims = ("arm", "sample", "feature") if metric.kind == "set" else ("arm", "sample")
        return xr.DataArray(np.stack(rows), dims=dims, coords={"arm": arms, "sample": pictures.samples})

    variable, clean = _variable(metric), pictures.arm(CLEAN)
    values = {variable: of(pictures.arms, pictures.arm, clean)}
    if pictures.replayed:
        values[f"replay_{variable}"] = of(pictures.replayed, pictures.replay, clean).reindex(arm=pictures.arms)
    if steps := pictures.frame_steps:
        frames = [of(pictures.arms, partial(pictures.frame, step=k), pictures.frame(CLEAN, k)) for k in steps]
        by_step = xr.concat(frames, dim=pd.Index(steps, name="frame_step"))
        values[f"{variable}_by_step"] = by_step.transpose("arm", "sample", "frame_step", ...)
    return xr.Dataset(values)


def _where(run: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values [sample, ...] of an arm, NaN for samples that it is not run on; run: bool [sample]."""
    return values if run.all() else np.where(run.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)


def _group(
    metric: Metric, values: xr.Dataset | None, stored: xr.Dataset | None, tree: xr.DataTree, weights: Weights
) -> xr.Dataset:
    """The whole group of a metric: new values beside those kept, over all arms and samples of the run."""
    about = _attributes(metric) | {"weights": _weights(metric, weights)}
    if stored is None or not _scored(stored) or not _same_weights(metric, stored, weights):
        assert values is not None
        return values.reindex(arm=tree["arm"].values, sample=tree["sample"].values).assign_attrs(about)
    if REFERENCE in stored:
        about |= {name: value for name, value in stored.attrs.items() if name.startswith("reference")}
    own = {name: stored[name].load() for name in stored.data_vars}
    if values is None:
        return xr.Dataset(own).assign_attrs(about | {"weights": stored.attrs.get("weights", about["weights"])})
    whole = values.reindex(arm=tree["arm"].values, sample=tree["sample"].values)
    return xr.Dataset(own | {name: whole[name].fillna(own.get(name, np.nan)) for name in whole}).assign_attrs(about)


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
