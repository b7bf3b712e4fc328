"""The table and the sentence of `tradeoff`: cost, error, frontier, and each arm beside fewer steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import costs, runs
from analysis.measures import tradeoff_control as control


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm, the controls among them: cost, error and its systematic part, and the ratio to fewer steps."""
    rows = []
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        row: dict[str, Any] = {"arm": str(arm), **_cells("cost", at["cost"]), **_cells("error", at["error"])}
        if np.isfinite(dataset["systematic"]).any():
            row |= _cells("systematic", at["systematic"])
        row |= {"frontier": bool(at["frontier"])}
        row |= _cells("over fewer steps", at["ratio"]) | {
            "p (Holm)": float(at["p_holm"]),
            "answer": str(at["answer"].item()),
        }
        for metric in dataset["metric"].values if "scores" in dataset else ():
            row |= _cells(str(metric), at["scores"].sel(metric=metric))
        rows.append(row)
    return pd.DataFrame(rows)


def _cells(name: str, interval: xr.DataArray) -> dict[str, float]:
    low, middle, high = (float(bound) for bound in runs.bounds(interval))
    return {name: middle, f"{name} low": low, f"{name} high": high}


def sentence(dataset: xr.Dataset) -> str:
    """What every arm costs and gets, how it does beside fewer steps, and which arms no other beats in both."""
    arms, more = runs.to_tell(dataset, 8)
    kind = str(dataset.attrs["cost"])
    said = [_of_arm(dataset.sel(arm=arm), kind) for arm in arms]
    best = [str(arm) for arm in dataset["arm"].values[dataset["frontier"].values]]
    text = f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples; cost is {costs.SAYS[kind]}, clean is 1. "
    text += f"{'. '.join(said)}{more}. "
    text += f"No other arm has both less cost and less error than {_listed(best)}." if best else _nothing_gained(kind)
    text += _systematic(dataset)
    if not dataset["control"].values.any():
        text += " No control: add an arm with fewer steps (--arm steps14), or give a run with fewer --steps beside it."
    else:
        text += f" Answers: beyond or within a factor {dataset.attrs['margin']:g}, Holm's p over the arms."
    return text


def _of_arm(at: xr.Dataset, kind: str) -> str:
    cost, error = float(at["cost"].sel(bound="estimate")), float(at["error"].sel(bound="estimate"))
    calls = f" ({int(at['calls'])} calls)" if kind == "time" and int(at["calls"]) else ""
    paid = f"{cost:.2f} of the clean cost{calls}" if np.isfinite(cost) else "cost unknown"
    text = f"{at['arm'].item()}: {paid}, error {_limits(at['error'])}"
    if error == 0:
        text = f"{at['arm'].item()}: {paid}, no error at all"
    answer, why = str(at["answer"].item()), str(at["why"].item())
    if answer == control.IS_CONTROL:
        return f"{text} (fewer steps)"
    if answer == control.NO_CONTROL:
        return f"{text}, {answer}{f' ({why})' if why else ''}" if np.isfinite(cost) else text
    ratio = float(at["ratio"].sel(bound="estimate"))
    if np.isfinite(ratio) and ratio > 0:
        text += f", {_limits(at['ratio'])} times that of fewer steps at this cost"
    reason = f" ({why})" if why else ""
    return f"{text}: {_than(answer)}{reason}"


def _than(answer: str) -> str:
    return {control.BETTER: "better than fewer steps", control.WORSE: "worse than fewer steps",
            control.EQUAL: "no different from fewer steps"}.get(answer, answer)  # fmt: skip


def _systematic(dataset: xr.Dataset) -> str:
    """Which part of the errors is systematic, or that it is not known."""
    if not np.isfinite(dataset["systematic"]).any():
        return " Errors are total ones: their systematic part needs --record own and a sampler that draws noise."
    best = [str(arm) for arm in dataset["arm"].values[dataset["systematic_frontier"].values]]
    return f" By the systematic part of the error: {_listed(best)}." if best else ""


def _nothing_gained(kind: str) -> str:
    return f"No arm takes fewer {costs.SAYS[kind]} than clean, so none gains anything in this."


def _limits(interval: xr.DataArray) -> str:
    low, middle, high = (float(bound) for bound in runs.bounds(interval))
    return f"{middle:.3g}" + (f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else "")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
