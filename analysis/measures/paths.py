"""Scatter told from systematic error: what each path's own injections shift the result by, and what arrives.

The own-path sum N* holds what the arm does to the mean; the rest of an error is scatter about it. Over several noise
paths of one start the slope of the error on N* calibrates the clean network. No answer is given here (see `verdict`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import calibration, rule, words
from analysis.answer.margins import CALIBRATION
from analysis.answer.measured import measured
from analysis.common import nouns, runs
from analysis.figures import style as figures
from analysis.measure import shipped

OWN = "finals,own"
MOST_ARMS = 8  # drawn


@shipped
def paths(run: xr.DataTree, *, seed: int = 0) -> xr.Dataset:
    """Systematic and scatter part of the final error of every whole arm, and the slope of the error on N*.

    Per sample (arm, sample), in spreads squared: `systematic_energy` |N*|^2, `scatter_energy` |delta - N*|^2,
    `replay_scatter_energy` the same of the replay about its own sum; `systematic` = |N*| / |N|. Per arm, with limits
    along (confidence, bound) over starts: `scatter_interval` and `replay_scatter_interval`, the share of the error's
    energy, `systematic_interval` the geometric mean of |N*| / |N|, `calibration_interval` the slope, NaN with one path
    a start or where x_T predicts no part of the error; `calibration_state` says which, `gram_low` (arm, sum) holds the
    jackknife's lower limits of both Gram sums over their means. Coordinates of `arm`: `mask` and `dose`.
    Raises RunError where the own-path sums were not recorded. Source: docs/science.md, "Propagation: the own-path
    sum".
    """
    runs.need(run, "decomposition/own_sum", OWN)
    rows = measured([run]).droplevel("steps")
    rows = rows[~rows["diverged"]]
    arms = {arm.name: arm for arm in runs.arms(run)}
    names = [str(name) for name in rows.index.unique("arm")]
    parts = [_of_arm(rows.loc[name], seed) for name in names]
    result = xr.concat(parts, dim="arm", combine_attrs="drop")
    result = result.assign_coords(
        arm=np.array(names, str),
        mask=("arm", [arms[name].mask for name in names]),
        dose=("arm", [arms[name].strength for name in names]),
    )
    first = rows.loc[names[0]]
    result.attrs = {
        "title": runs.title(run), "samples": len(first), "starts": int(first["start"].nunique()),
        "paths": int(first["path"].max(skipna=False)) + 1,
    }  # fmt: skip
    return result


def _of_arm(rows: pd.DataFrame, seed: int) -> xr.Dataset:
    used = rows[rows["kept"]]
    unit = (rows["error_spreads"] / rows["error"]).to_numpy(float) ** 2
    part = xr.Dataset(coords={"start": ("sample", rows["start"].to_numpy(str)), "pair": ("sample", rows.index)})
    for name in ("systematic_energy", "scatter_energy", "replay_scatter_energy"):
        part[name] = "sample", rows[name].to_numpy(float) * unit
    part["systematic"] = "sample", np.exp(rows["log_systematic"].to_numpy(float))
    start = used["start"].to_numpy(str)
    for name, top, bottom in (
        ("scatter", "scatter_energy", "error_energy"),
        ("replay_scatter", "replay_scatter_energy", "replay_energy"),
    ):
        part[f"{name}_interval"] = calibration.share(used[top], used[bottom], start, seed=seed)
    gram = used[["gram_top", "gram_bottom"]].to_numpy(float).T
    answers = (
        rule.decide(None, used["log_systematic"].to_numpy(float), gram=gram, starts=start, seed=seed)
        if len(used)
        else None
    )
    for name in ("systematic", "calibration"):
        part[f"{name}_interval"] = (
            answers.intervals.sel(quantity=name, drop=True) if answers else part["scatter_interval"] * np.nan
        )
    part["calibration_state"] = answers.calibration if answers else calibration.NO_PATHS
    part["gram_low"] = xr.DataArray(calibration.gram_low(gram, start), dims="sum", coords={"sum": ["error", "own"]})
    return part


# --- presentation ---


@paths.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per intervention and dose: scatter shares, |N*| / |N|, the slope on N* and what is known of it."""
    rows, called = [], nouns.wording(dataset).noun
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        row: dict[str, Any] = {called: at["mask"].item(), "dose": float(at["dose"])}
        for label, name in (
            ("scatter", "scatter"), ("replay scatter", "replay_scatter"), ("|N*|/|N|", "systematic"),
            ("slope on N*", "calibration"),
        ):  # fmt: skip
            low, value, high = words.limits(at[f"{name}_interval"])
            row |= {label: value, f"{label} low": low, f"{label} high": high}
        row["calibration"] = at["calibration_state"].item()
        rows.append(row)
    return pd.DataFrame(rows)


@paths.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Scatter of the changed path and of the replay, systematic amplification and calibration of every arm."""
    texts = []
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        text = (
            f"{words.named(at)}: {words.percent(at['scatter_interval'])} of the error's energy is scatter about its "
            f"own-path sum ({words.percent(at['replay_scatter_interval'])} for the replay), |N*|/|N| "
            f"{words.quoted(at['systematic_interval'])}"
        )
        state = at["calibration_state"].item()
        if np.isfinite(words.limits(at["calibration_interval"])[1]):
            text += f", slope on N* {words.quoted(at['calibration_interval'])} ({state})"
        texts.append(text + (f", slope on N*: {state}" if state == calibration.BLIND else ""))
    size = f"{dataset.attrs['samples']} samples"
    if dataset.attrs["paths"] > 1:
        size = f"{dataset.attrs['starts']} starts of up to {dataset.attrs['paths']} noise paths"
    more = "" if dataset.attrs["paths"] > 1 else " The slope on N* needs several noise paths: `--paths 8`."
    return f"{dataset.attrs['title']}, {size}. {'. '.join(texts)}.{more}"


@paths.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Scatter against systematic energy of every sample, the share of scatter, and the slope on N*."""
    calibrated = bool(np.isfinite(dataset["calibration_interval"]).any())
    arms = [str(arm) for arm in dataset["arm"].values][:MOST_ARMS]
    canvas, ((*axes,),) = figures.panels(1, 2 + calibrated, width=4.2 + 2.5 * (1 + calibrated), height=3.2)
    _energies(axes[0], dataset, arms)
    _bars(axes[1], dataset, arms, "scatter")
    axes[1].set_xlim(-0.03, 1.03)
    axes[1].set_xlabel("share of the error's energy")
    axes[1].set_title("Scatter", loc="left")
    if calibrated:
        axes[2].axvspan(*CALIBRATION, color="#ececec", zorder=0)
        axes[2].axvline(1, color=figures.NULL, linewidth=0.7)
        _bars(axes[2], dataset, arms, "calibration")
        axes[2].set_xlabel("slope of the error on N*")
        axes[2].set_title("Calibration", loc="left")
    figures.letters(np.array(axes))
    acted = nouns.wording(dataset).acted
    note = (
        f"Dots in a: samples; on the dashed line both parts are equal. Circles in b: {acted} path, with 95% intervals; "
        "crosses: replay, which meets the same clean network without feedback."
    )
    if calibrated:
        note += " Grey in c: the slope of a posterior mean, within a tenth."
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples from {dataset.attrs['starts']} starts"
    note += figures.left_out(dataset.sizes["arm"], len(arms))
    figures.legend_above(canvas, axes[0], heading=heading, note=note)
    return canvas


def _energies(axes: Axes, dataset: xr.Dataset, arms: list[str]) -> None:
    every = []
    for arm in arms:
        at = dataset.sel(arm=arm)
        x, y = at["systematic_energy"].values, at["scatter_energy"].values
        axes.plot(x, y, ".", color=_colour(dataset, arm), alpha=0.45, markersize=4)
        axes.plot([], [], "o", color=_colour(dataset, arm), markersize=5, label=words.named(at))
        every += [x[x > 0], y[y > 0]]
    values = np.concatenate(every)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if values.size:
        low, high = values.min() / 1.5, values.max() * 1.5
        axes.plot([low, high], [low, high], color=figures.NULL, linewidth=0.8, linestyle=(0, (4, 2)))
    for which in ("x", "y"):
        figures.log_axis(axes, which)
    axes.set_xlabel("systematic: |N*|² in spreads²")
    axes.set_ylabel("scatter: |δ − N*|² in spreads²")
    axes.set_title("Two parts of the final error", loc="left")


def _bars(axes: Axes, dataset: xr.Dataset, arms: list[str], name: str) -> None:
    for row, arm in enumerate(arms):
        at, color = dataset.sel(arm=arm), _colour(dataset, arm)
        low, value, high = words.limits(at[f"{name}_interval"])
        axes.plot([low, high], [row, row], color=color, linewidth=2)
        axes.plot(value, row, "o", color=color, markersize=5)
        if f"replay_{name}_interval" in at:
            axes.plot(words.limits(at[f"replay_{name}_interval"])[1], row + 0.18, "x", color=color, markersize=5)
    axes.set_yticks(range(len(arms)), [words.named(dataset.sel(arm=arm)) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _colour(dataset: xr.Dataset, arm: str) -> str:
    return figures.colour(arm, [str(name) for name in dataset["arm"].values])
