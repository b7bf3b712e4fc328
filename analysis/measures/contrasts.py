"""Families of masks told apart, two by two, in one model: by right answers and by the shift of features.

Reads saved sweeps; the pictures of both masks are the same, so everything is paired. What cannot show a difference is
not compared: shifts as large as between unrelated pictures, answers at chance, answers that no mask of the two hurt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common.resampling import Statistic, resample
from analysis.common.statistics import holm
from analysis.measures.curves import hits, mcnemar

FAMILIES = ("local", "small-world", "random")
NEAR = 0.9
"""A shift is read while its upper 95% limit is below this share of the distance of unrelated pictures (arbitrary)."""
MARGIN = 0.10
"""Shares of right answers are called within this of each other by their 90% interval (arbitrary)."""
WITHIN = f"within {100 * MARGIN:.0f} points"
LEVEL = 0.05


def unrelated(data: xr.Dataset) -> float:
    """Root mean squared distance of the clean features of two pictures (of one class, where the model is told it).

    In standard deviations, as `shift` is. The square root of 2, that of independent features, for sweeps that did not
    measure it or have no two pictures of a class.
    """
    if "unrelated_fvu" in data:
        clean = data["unrelated_fvu"].values[data["family"].values == "clean"].astype(float)
        if np.isfinite(clean).any():
            return float(np.sqrt(np.nanmean(clean)))  # NaN: pictures alone in their class
    return float(np.sqrt(2))


def saturated(high: np.ndarray | float, apart: float) -> np.ndarray:
    """Whether shifts with this upper limit lie near the distance `apart` of unrelated pictures, or beyond."""
    return np.asarray(high) >= NEAR * apart


def chance(data: xr.Dataset, task: str) -> float:
    """Share of right answers of a model that guesses; 0 where the sweep does not say among how many."""
    if task == "retrieve":
        return float(np.mean([1 / data.sizes["text"], 1 / data.sizes["sample"]]))
    names = data["label"].attrs.get("class_names", ()) if "label" in data.coords else ()
    return 1 / len(names) if len(names) else 0.0


def bound(low: float, change_high: float, guessing: float) -> str:
    """Which end of the scale an accuracy lies at: `chance`, `clean` (no loss seen), or neither."""
    if low <= guessing:
        return "chance"
    return "clean" if change_high >= 0 else ""


def contrasts(*sweeps: xr.Dataset, density: float = 0.25, families: Sequence[str] = FAMILIES) -> pd.DataFrame:
    """A line per model and pair of families at one density: `difference` is the share right under `second` minus first.

    Limits are 95% BCa over samples (`low90` and `high90`: 90%). `p`: exact McNemar between the two, the largest over
    mask seeds; `p_holm` over all pairs of a task, whatever the model. `told`: which is better, `WITHIN` (the 90%
    interval), `not told`, or why the two are not compared. `shift_difference` is NaN where a shift is saturated.
    """
    lines = [line for data in sweeps for line in _of_sweep(data, density, families)]
    frame = pd.DataFrame(lines)
    if frame.empty:
        return frame
    frame["p_holm"] = frame.groupby("task")["p"].transform(lambda p: holm(p.to_numpy()))
    frame["told"] = [_told(line) for line in frame.to_dict("records")]
    return frame


def _of_sweep(data: xr.Dataset, density: float, families: Sequence[str]) -> list[dict[str, Any]]:
    config = json.loads(data.attrs["config"])
    task, kinds = config["task"], hits(data, config["task"])
    fvu, apart, guessing = data["feature_fvu"].values.astype(float), unrelated(data), chance(data, config["task"])
    near = np.isclose(data["target_density"].values, density)
    rows = {name: np.flatnonzero(near & (data["family"].values == name)) for name in families}
    rows = {name: cells for name, cells in rows.items() if len(cells)}
    clean = np.flatnonzero(data["family"].values == "clean")

    def share(cells: np.ndarray) -> Statistic:
        right = [(kind.right[cells].mean(0), kind.queries) for kind in kinds]
        return lambda index: np.mean([one[index].sum(-1) / of[index].sum(-1) for one, of in right], axis=0)

    def less(one: Statistic, other: Statistic) -> Statistic:
        return lambda index: one(index) - other(index)

    def moved(cells: np.ndarray) -> Statistic:
        return lambda index: np.sqrt(fvu[cells].mean(0)[index].mean(-1))

    units, lines = len(kinds[0].queries), []
    whole = share(clean)
    of_family = {}
    for name, cells in rows.items():
        alone = share(cells)
        value = resample(alone, units)
        change = resample(less(alone, whole), units)
        end = bound(value.interval(0.95)[0], change.interval(0.95)[1], guessing)
        shift = resample(moved(cells), fvu.shape[1])
        of_family[name] = value.estimate, end, shift.estimate, bool(saturated(shift.interval(0.95)[1], apart))
    for first, second in combinations(rows, 2):
        one, other = share(rows[first]), share(rows[second])
        apart_by = resample(less(other, one), units)
        (low, high), (low90, high90) = apart_by.interval(0.95), apart_by.interval(0.90)
        line: dict[str, Any] = {"task": task, "model": config["model"], "samples": units}
        line |= {"first": first, "second": second}
        for side, name in (("first", first), ("second", second)):
            values = zip(("share", "bound", "shift", "saturated"), of_family[name], strict=True)
            line |= {f"{side}_{what}": value for what, value in values}
        line |= {"difference": apart_by.estimate, "low": low, "high": high, "low90": low90, "high90": high90}
        line["p"] = max(mcnemar(kinds, a, b) for a, b in _matched(rows[first], rows[second]))
        lines.append(line | _shifts(line, moved(rows[first]), moved(rows[second]), fvu.shape[1], apart))
    return lines


def _matched(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """Cells of the same mask seed; a mask without chance has one cell, which stands beside every seed of the other."""
    return [(int(first[k % len(first)]), int(second[k % len(second)])) for k in range(max(len(first), len(second)))]


def _shifts(line: dict[str, Any], one: Callable, other: Callable, samples: int, apart: float) -> dict[str, float]:
    """The difference of two shifts with its 95% limits, where both are readable."""
    if line["first_saturated"] or line["second_saturated"]:
        found = (np.nan,) * 3
    else:
        change = resample(lambda index: other(index) - one(index), samples)
        low, high = change.interval(0.95)
        found = (low, change.estimate, high)
    names = ("shift_low", "shift_difference", "shift_high")
    return {"unrelated": apart} | dict(zip(names, found, strict=True))


def _told(line: dict[str, Any]) -> str:
    ends = {line["first_bound"], line["second_bound"]}
    if ends == {"chance"}:
        return "both at chance"
    if ends == {"clean"}:
        return "no loss seen"
    if line["p_holm"] < LEVEL:
        return f"{line['second'] if line['difference'] > 0 else line['first']} better"
    return WITHIN if max(-line["low90"], line["high90"]) <= MARGIN else "not told"


def in_words(frame: pd.DataFrame) -> str:
    """Which families are told apart, model by model."""
    if frame.empty:
        return "No two families at one density: nothing to tell apart."
    clauses = []
    for model, lines in frame.groupby("model", sort=False):
        clauses.append(f"{model}: " + ", ".join(_said(line) for line in lines.to_dict("records")))
    return (
        "; ".join(clauses) + f". McNemar's exact test after Holm over a task; `{WITHIN}`: by the 90% "
        "interval. Every trained seed is an answer of its own."
    )


def _said(line: dict[str, Any]) -> str:
    limits = f"{100 * line['difference']:+.0f} points [{100 * line['low']:+.0f}, {100 * line['high']:+.0f}]"
    return f"{line['second']} against {line['first']} {limits}, {line['told']}"
