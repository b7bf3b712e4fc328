"""Metrics of a run's decoded pictures: every arm against the clean pictures of the same samples.

Reads the scores that are kept beside the run (`trace score RUN`); no network is loaded and no picture is looked at.
Metrics are scores of single pictures, distances of each changed picture to its clean twin, or distances of whole sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from analysis.common import divergence, runs, set_distances, statistics
from analysis.measure import shipped
from analysis.measures import quality_figure, quality_words
from analysis.measures.quality_words import BOUNDS, TO_REFERENCE
from interventions.errors import RunError


@shipped
def quality(run: xr.DataTree, metrics: str | Sequence[str] | None = None, *, seed: int = 0) -> xr.Dataset:
    """Every scored metric of every arm, with 95% BCa intervals over samples.

    `metrics` are names of groups of `/scores` (None: all there are). Of (metric, arm): `value` (bound); `change`
    (bound), arm minus clean paired by sample, where the metric scores a picture by itself; its paired d_z `effect_size`
    and two-sided `p` (exact McNemar for yes/no scores, else paired t), `p_holm` over the intervened arms but the floor.
    Of sets, `value` is the distance to the clean set, for MMD the published V-statistic, and `unbiased` (bound) the
    U-statistic (`set_distances.mmd`). Sets scored with a reference have `to_reference`, `reference_change` from clean
    and `reference_relative`, that over the clean distance (bound); the same of the U-statistic as `unbiased_...`. Their
    intervals resample samples, clean and masked together; the reference stays as it is.
    Where pictures of the replay were scored: `replayed` (bound), the value of those, and `from_replay` (bound) with
    `p_replay`, changed minus replayed, for the question whether the arm costs more than its clean-path injections.
    `score` (metric, arm, sample) holds the single values, NaN for metrics of whole sets. Samples that are not complete,
    or that a metric has no score of, are left out. Raises RunError where there are no scores, naming what to type.
    """
    if "scores" not in run.children:
        runs.need(run, "images/image", "norms,images")
        raise RunError("the pictures of this run are not scored yet: measure them with `trace score RUN`")
    run = runs.complete(run)
    stored = {name: node.to_dataset() for name, node in run["scores"].children.items()}
    chosen, left_out = chosen_scores(stored, [metrics] if isinstance(metrics, str) else metrics)
    asked = divergence.asked(run).values
    scored = np.logical_and.reduce([_scored(group, asked) for group in chosen.values()])
    if not scored.any():
        raise RunError("no complete sample of this run is scored by all of these metrics: repeat `trace score RUN`")
    chosen = {name: group.isel(sample=np.flatnonzero(scored)) for name, group in chosen.items()}
    parts = [_compared(group, seed) for group in chosen.values()]
    dataset = xr.concat(parts, dim=pd.Index(list(chosen), name="metric"))
    about = {name: group.attrs for name, group in chosen.items()}
    dataset = dataset.assign_coords(
        {key: ("metric", [about[name][key] for name in chosen]) for key in ("title", "kind", "higher_is_better")}
    )
    if "metrics" in run.children:
        dataset = runs.with_arms(dataset, run)
    dataset.attrs = {
        "title": runs.title(run),
        "samples": dataset.sizes["sample"],
        "skipped": json.dumps(left_out),
        "weights": json.dumps({name: about[name].get("weights", "") for name in chosen}),
        "references": json.dumps({
            name: {key: about[name][f"reference{key and '_'}{key}"] for key in ("", "pictures", "digest")}
            for name, group in chosen.items() if "reference_features" in group
        }, default=int),
    }  # fmt: skip
    return dataset


def chosen_scores(
    stored: dict[str, xr.Dataset], names: Sequence[str] | None
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """The groups asked for, in that order, or all with values; and of the others why they have none."""
    ordered = sorted(stored, key=lambda name: (stored[name].attrs.get("position", len(stored)), name))
    reasons = {name: str(stored[name].attrs["left_out"]) for name in ordered if "left_out" in stored[name].attrs}
    known = [name for name in ordered if name not in reasons]
    for name in names or ():
        if name in reasons:
            raise RunError(f"--metric {name}: {reasons[name]}")
        if name not in known:
            raise RunError(
                f"--metric {name}: this run is scored by {', '.join(known) or 'nothing'} only; measure the rest with "
                f"`trace score RUN --metric {name}`"
            )
    if names:
        return {name: stored[name] for name in dict.fromkeys(names)}, {}
    if not known:
        raise RunError(
            "this run is scored by no metric; name one that fits, for example `trace score RUN --metric pixels`"
        )
    return {name: stored[name] for name in known}, reasons


def values_of(group: xr.Dataset) -> xr.DataArray:
    """Scores (arm, sample), or features (arm, sample, feature), in memory."""
    return group["features" if "features" in group else "score"].transpose("arm", "sample", ...).load()


def _scored(group: xr.Dataset, asked: np.ndarray) -> np.ndarray:
    """Bool [sample]: every arm that is run on it, bool [arm, sample], has its value."""
    return (present(values_of(group)) | ~asked).all(axis=0)


def present(values: xr.DataArray) -> np.ndarray:
    """Bool [arm, sample]: where there is a value; of the floor on the few samples only that it is run on."""
    return values.notnull().all([dim for dim in values.dims if dim not in ("arm", "sample")]).values


def _compared(group: xr.Dataset, seed: int) -> xr.Dataset:
    """One metric's dataset: value, and for scores of single pictures the change from clean.

    The floor's are those of the samples that it is run on.
    """
    values, arms = values_of(group), [str(arm) for arm in group["arm"].values]
    clean = arms.index(runs.CLEAN)
    score = np.full(values.shape[:2], np.nan)
    change = np.full((len(arms), 3), np.nan)
    effect, p = np.full(len(arms), np.nan), np.full(len(arms), np.nan)
    is_set, value, unbiased = "features" in group, np.full((len(arms), 3), np.nan), np.full((len(arms), 3), np.nan)
    if not is_set:
        score = values.values
    for k, (arm, there) in enumerate(zip(arms, present(values), strict=True)):
        if not there.any():
            continue
        own, twin = values.values[k, there], values.values[clean, there]
        value[k] = _set_distance(group, twin, own, seed) if is_set else _bounds(own, seed)
        if is_set:
            unbiased[k] = _set_distance(group, twin, own, seed, unbiased=True)
        if group.attrs["kind"] == "score" and arm != runs.CLEAN:
            change[k], effect[k] = _bounds(own - twin, seed), statistics.effect_size(own, twin)
            if arm != runs.FULL:
                p[k] = paired_p(own, twin)
    return xr.Dataset(
        {
            "value": (("arm", "bound"), value),
            "unbiased": (("arm", "bound"), unbiased),
            "change": (("arm", "bound"), change),
            "effect_size": ("arm", effect),
            "p": ("arm", p),
            "p_holm": ("arm", statistics.holm(p)),
            "score": (("arm", "sample"), score),
            **_of_replay(group, values, seed),
            **_of_reference(group, values, seed),
        },
        coords={"arm": arms, "bound": BOUNDS, "sample": group["sample"].values},
    )


def _of_replay(group: xr.Dataset, values: xr.DataArray, seed: int) -> dict[str, tuple]:
    """Value of each arm's replay, and masked minus replayed; empty where no replay was scored."""
    name = f"replay_{values.name}"
    if name not in group:
        return {}
    replays = group[name].transpose("arm", "sample", ...).load()
    arms, clean = group["arm"].values.tolist(), values.sel(arm=runs.CLEAN).values
    replayed, change, p = np.full((len(arms), 3), np.nan), np.full((len(arms), 3), np.nan), np.full(len(arms), np.nan)
    for k, (masked, replay) in enumerate(zip(values.values, replays.values, strict=True)):
        if np.isnan(replay).any():
            continue
        is_set = values.name == "features"
        replayed[k] = _set_distance(group, clean, replay, seed) if is_set else _bounds(replay, seed)
        if group.attrs["kind"] == "score":
            change[k], p[k] = _bounds(masked - replay, seed), paired_p(masked, replay)
    return {"replayed": (("arm", "bound"), replayed), "from_replay": (("arm", "bound"), change), "p_replay": ("arm", p)}


def _of_reference(group: xr.Dataset, values: xr.DataArray, seed: int) -> dict[str, tuple]:
    """Distance of every arm to the reference, with its change from clean; empty where there is no reference."""
    if "reference_features" not in group:
        return {}
    pictures = group["reference_features"].transpose("reference", "feature").values
    clean, found = values.sel(arm=runs.CLEAN).values, dict[str, tuple]()
    for prefix, unbiased in (("", False), ("unbiased_", True)):
        reference = set_distances.Reference(distance_of(group), pictures, unbiased=unbiased, seed=seed)
        rows = np.full((len(values["arm"]), 3, 3), np.nan)  # [arm, what, bound]
        for k, there in enumerate(present(values)):
            if there.any():
                rows[k] = reference.compared(clean[there], values.values[k, there])
        found |= {prefix + name: (("arm", "bound"), rows[:, place]) for place, name in enumerate(TO_REFERENCE)}
    return found


def _bounds(values: np.ndarray, seed: int) -> np.ndarray:
    interval = statistics.bca(values, seed=seed)
    return np.array([interval.low, interval.estimate, interval.high])


def _set_distance(
    group: xr.Dataset, clean: np.ndarray, masked: np.ndarray, seed: int, *, unbiased: bool = False
) -> np.ndarray:
    return set_distances.distance(distance_of(group), clean, masked, unbiased=unbiased, seed=seed)


def distance_of(group: xr.Dataset) -> str:
    """The distance that the scores name. Raises RunError for one that there is not."""
    name = str(group.attrs.get("distance"))
    if name not in set_distances.DISTANCES:
        raise RunError(
            f"the scores {group.attrs.get('name')!r} are features to be compared by {name!r}, which is none of "
            f"{', '.join(set_distances.DISTANCES)}"
        )
    return name


def paired_p(masked: np.ndarray, clean: np.ndarray) -> float:
    """Two-sided p of "no difference", paired: exact McNemar where all values are 0 or 1, else the t test."""
    if np.isin(masked, (0, 1)).all() and np.isin(clean, (0, 1)).all():
        gained, lost = int((masked > clean).sum()), int((masked < clean).sum())
        return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference = masked - clean
    return float(min(1.0, 2 * min(statistics.p_above(difference), statistics.p_below(difference))))


quality.presents("table")(quality_words.table)
quality.presents("sentence")(quality_words.sentence)
quality.presents("figure")(quality_figure.figure)
