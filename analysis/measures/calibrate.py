"""How large what an arm does to the pictures is beside what another seed, guidance or number of steps does to them.

A distance has no scale of its own. The first run holds the arms; the clean arms of the others are the calibrations.
Reads scores that are kept beside the runs (`trace score RUN`); no network is loaded and no picture is looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import pairing, resampling, runs, set_distances, statistics
from analysis.measure import shipped
from analysis.measures import calibrate_words, quality
from analysis.measures.compare import word
from interventions.errors import RunError

BOUNDS = ["low", "estimate", "high"]
SETTINGS = ("model", "checkpoint", "sampler", "steps", "guidance", "seed", "dtype")
NO_TWIN = "it compares a picture with its clean twin, which another run does not have"
_Statistic = Callable[[np.ndarray], np.ndarray]


@shipped
def calibrate(
    several: Iterable[xr.DataTree] | Mapping[object, xr.DataTree],
    metrics: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> xr.Dataset:
    """Every arm of the first run beside the clean arm of every other run, with 95% BCa intervals over samples.

    `calibration` names each other run by what differs from the first. Of (metric, arm, calibration): `value` (bound),
    the arm's distance from the first run's clean pictures, or for scores of single pictures its mean change;
    `times` (bound), how many times that of the calibration it is; `difference` (bound) of the two sizes with its
    two-sided `p`, that inverts the interval, and `p_holm` over the whole table. Of (metric, calibration): the same
    `calibration_value` of the other run's clean arm. `unbiased` and `calibration_unbiased` (bound) are the U-statistics
    of MMD, of which `difference` is; other sizes are compared as they are.
    Both are of the `samples` (calibration) that the runs share: by seed and class or prompt, else, as with another
    seed, by class or prompt in their order. The Frechet distance has no interval and no p.
    Raises RunError for one run, runs that do not differ, that share no class or prompt, or that are not scored.
    """
    trees = pairing.as_list(several)
    if len(trees) < 2:
        raise RunError("give the run with the arms first, then runs with another --seed, --guidance or --steps")
    first, *others = [runs.complete(run) for run in trees]
    named = names(trees)
    scores = [_scores(run, metrics) for run in (first, *others)]
    chosen = [name for name in scores[0] if all(name in other for other in scores[1:])]
    fitting = [name for name in chosen if scores[0][name].attrs["kind"] != "to clean"]
    if not fitting:
        raise RunError(
            "no metric of whole sets or of single pictures is scored in all of these runs: type `trace score RUN "
            "--metric mmd` (or cmmd, fid, clip-t) for each of them"
        )
    arms = [arm for arm in first.ds["arm"].values.tolist() if arm not in (runs.CLEAN, runs.FULL)]
    if not arms:
        raise RunError("the first run has no intervened arm: give the run with the arms first")
    partners = [_partners(first, other) for other in others]
    parts = [
        xr.concat(
            [
                _compared(scores[0][name], other[name], pairs, arms, seed)
                for other, pairs in zip(scores[1:], partners, strict=True)
            ],
            dim=pd.Index(named, name="calibration"),
        )
        for name in fitting
    ]
    result = xr.concat(parts, dim=pd.Index(fitting, name="metric")).transpose("metric", ...)
    result["p_holm"] = (("metric", "calibration", "arm"), statistics.holm(result["p"].values))
    about = {key: [scores[0][name].attrs.get(key, "") for name in fitting] for key in ("title", "kind", "distance")}
    result = result.assign_coords({key: ("metric", values) for key, values in about.items()})
    if "metrics" in first.children:
        result = runs.with_arms(result, first, windows=False)
    result.attrs = {
        "title": runs.title(first),
        "skipped": json.dumps({name: NO_TWIN for name in chosen if name not in fitting}),
    }
    return result


def names(trees: Sequence[xr.DataTree]) -> list[str]:
    """What each run but the first is called: the settings that differ from the first, with both values."""
    own, *rest = [runs.configuration(run) for run in trees]
    called = []
    for config in rest:
        differing = [name for name in SETTINGS if str(config.get(name)) != str(own.get(name))]
        if not differing:
            raise RunError(
                "a run differs from the first in nothing that moves its clean pictures: give runs with another --seed, "
                "--guidance or --steps"
            )
        called.append(", ".join(f"{word(n, config.get(n))} instead of {_value(n, own.get(n))}" for n in differing))
    if twice := [name for name, count in Counter(called).items() if count > 1]:
        raise RunError(f"two of these runs are both {twice[0]}: give each once")
    return called


def _value(name: str, value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else word(name, value).removeprefix(f"{name} ")


def _scores(run: xr.DataTree, metrics: str | Sequence[str] | None) -> dict[str, xr.Dataset]:
    if "scores" not in run.children:
        runs.need(run, "images/image", "norms,images")
        raise RunError("the pictures of a run are not scored yet: measure each with `trace score RUN`")
    stored = {name: node.to_dataset() for name, node in run["scores"].children.items()}
    return quality.chosen_scores(stored, [metrics] if isinstance(metrics, str) else metrics)[0]


def _partners(first: xr.DataTree, other: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the samples that two runs share, in the order of the first."""
    for starts in (True, False):
        own, theirs = (_keys(run, starts) for run in (first, other))
        shared = [key for key in own if key in theirs]
        if shared:
            return np.array([own[key] for key in shared]), np.array([theirs[key] for key in shared])
    raise RunError("these runs share no class or prompt: give each the same --classes or --prompts and --samples")


def _keys(run: xr.DataTree, starts: bool) -> dict[tuple, int]:
    """Position of each sample by its class or prompt and its seed, or how often the class or prompt came before."""
    coords = run.ds.coords
    kinds = [name for name in ("class_label", "prompt") if name in coords]
    asked = list(zip(*(coords[name].values.tolist() for name in kinds), strict=True)) or [()] * run.ds.sizes["sample"]
    if starts:
        marks = coords["seed"].values.tolist() if "seed" in coords else coords["sample"].values.tolist()
        if "path" in coords:
            marks = list(zip(marks, coords["path"].values.tolist(), strict=True))
    else:
        seen: Counter = Counter()
        marks = []
        for one in asked:
            marks.append(seen[one])
            seen[one] += 1
    return {(*one, mark): place for place, (one, mark) in enumerate(zip(asked, marks, strict=True))}


def _compared(
    own: xr.Dataset, other: xr.Dataset, pairs: tuple[np.ndarray, np.ndarray], arms: Sequence[str], seed: int
) -> xr.Dataset:
    """One metric and one calibration: every arm beside it, on the samples that both runs have scores of."""
    mine = quality.values_of(own).sel(arm=[runs.CLEAN, *arms]).isel(sample=pairs[0])
    theirs = quality.values_of(other).sel(arm=[runs.CLEAN]).isel(sample=pairs[1])
    kept = quality.present(mine).all(0) & quality.present(theirs)[0]
    if not kept.any():
        raise RunError("no sample that these runs share is scored in all of them: repeat `trace score RUN` for each")
    clean, *masked = mine.values[:, kept].astype(np.float64)
    moved = theirs.values[0, kept].astype(np.float64)
    is_set, count = own.attrs["kind"] == "set", int(kept.sum())
    interval = not is_set or set_distances.DISTANCES[quality.distance_of(own)].interval

    def sizes(values: np.ndarray, unbiased: bool) -> _Statistic | None:
        if not is_set:
            return None if unbiased else lambda numbers: (values - clean)[numbers].mean(-1)
        if unbiased and not interval:
            return None
        return set_distances.DISTANCES[quality.distance_of(own)].between(clean, values, unbiased)

    def bounds(statistic: _Statistic | None) -> tuple[np.ndarray, float]:
        """[low, estimate, high] and the two-sided p of 0."""
        if statistic is None:
            return np.full(3, np.nan), np.nan
        if not interval:
            return np.array([np.nan, float(statistic(np.arange(count))), np.nan]), np.nan
        found = resampling.resample(statistic, count, resamples=set_distances.RESAMPLES, seed=seed)
        low, high = found.interval(0.95)
        p = min(1.0, 2 * min(found.p_above(0), found.p_below(0))) if found.replicates.size else np.nan
        return np.array([low, found.estimate, high]), p

    shape = (len(arms), 3)
    value, unbiased, times, difference = (np.full(shape, np.nan) for _ in range(4))
    p = np.full(len(arms), np.nan)
    calibration, plain = sizes(moved, False), sizes(moved, True)
    assert calibration is not None
    for k, values in enumerate(masked):
        size, without = sizes(values, False), sizes(values, True)
        value[k], unbiased[k] = bounds(size)[0], bounds(without)[0]
        times[k] = bounds(_ratio(size, calibration))[0]
        if not is_set:
            times[k, [0, 2]] = np.nan  # a mean change may well be 0
        difference[k], p[k] = bounds(
            _difference(without or size, plain or calibration, np.positive if is_set else np.abs)
        )
    over = ("arm", "bound")
    return xr.Dataset(
        {
            "value": (over, value), "unbiased": (over, unbiased), "times": (over, times),
            "difference": (over, difference), "p": ("arm", p),
            "calibration_value": ("bound", bounds(calibration)[0]),
            "calibration_unbiased": ("bound", bounds(plain)[0]),
            "samples": ((), count),
        },
        coords={"arm": list(arms), "bound": BOUNDS},
    )  # fmt: skip


def _ratio(one: _Statistic | None, other: _Statistic) -> _Statistic:
    assert one is not None

    def statistic(numbers: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(other(numbers))
            return np.where(size > 0, np.abs(one(numbers)) / size, np.nan)

    return statistic


def _difference(one: _Statistic | None, other: _Statistic, size: Callable[[np.ndarray], np.ndarray]) -> _Statistic:
    assert one is not None
    return lambda numbers: size(one(numbers)) - size(other(numbers))


calibrate.presents("table")(calibrate_words.table)
calibrate.presents("records")(calibrate_words.records)
calibrate.presents("sentence")(calibrate_words.sentence)
calibrate.presents("figure")(calibrate_words.figure)
