"""What `calibrate` found as a table, in words and as a picture; it computes nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style as figures
from analysis.measures.quality_words import BOUNDS, limits

LEVEL = 0.05
FULL_RANK = 2048  # samples below which a Frechet distance of Inception features is no FID
_COLUMNS = {
    "value": "",
    "calibration_value": "calibration ",
    "unbiased": "unbiased ",
    "calibration_unbiased": "calibration unbiased ",
    "times": "times ",
    "difference": "difference ",
}


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per metric, arm and calibration: both sizes, how many times with limits, Holm's p and what it says."""
    names = {"estimate": "value", "calibration estimate": "of it", "times estimate": "times"}
    names |= {"times low": "low", "times high": "high"}
    every = records(dataset)[["metric", "arm", "calibration", *names, "p (Holm)", "says"]]
    return every.rename(columns=names)


def records(dataset: xr.Dataset) -> pd.DataFrame:
    """As the table, with the limits of both sizes, of their unbiased forms and of the difference."""
    rows = []
    for metric in dataset["metric"].values:
        for arm in dataset["arm"].values:
            for calibration in dataset["calibration"].values:
                at = dataset.sel(metric=metric, arm=arm, calibration=calibration)
                row: dict[str, str | float] = {"metric": str(metric), "arm": str(arm), "calibration": str(calibration)}
                row["samples"] = int(at["samples"])
                for name, prefix in _COLUMNS.items():
                    row |= {f"{prefix}{bound}": float(at[name].sel(bound=bound)) for bound in BOUNDS}
                rows.append(row | {"p": float(at["p"]), "p (Holm)": float(at["p_holm"]), "says": says(at)})
    return pd.DataFrame(rows)


def says(at: xr.Dataset) -> str:
    """Of one arm and calibration: larger, smaller, not told apart (which is no "equal"), or no test."""
    p, difference = float(at["p_holm"]), float(at["difference"].sel(bound="estimate"))
    if not np.isfinite(p):
        return "not tested"
    if p >= LEVEL:
        return "not told apart"
    return "larger" if difference > 0 else "smaller"


def sentence(dataset: xr.Dataset) -> str:
    """For every metric the calibrations, then every arm beside each of them; no claim beyond the corrected p."""
    texts = []
    for metric in dataset["metric"].values:
        at = dataset.sel(metric=metric)
        moved = [
            f"{c} moves the clean pictures by {_size(at.sel(calibration=c), 'calibration_')}"
            for c in at["calibration"].values
        ]
        beside = [f"{arm}: {_arm(at.sel(arm=arm))}" for arm in at["arm"].values]
        texts.append(f"{at['title'].item()}: {'; '.join([*moved, *beside])}")
    skipped = "; ".join(f"{name} ({why})" for name, why in json.loads(dataset.attrs["skipped"]).items())
    ending = f" Left out: {skipped}." if skipped else ""
    return f"{dataset.attrs['title']}. {'. '.join(texts)}.{_notes(dataset)}{ending}"


def _arm(at: xr.Dataset) -> str:
    clauses = []
    for calibration in at["calibration"].values:
        here = at.sel(calibration=calibration)
        low, times, high = (float(v) for v in here["times"].values)
        p = float(here["p_holm"])
        tested = f", Holm's p {p:.2g}" if np.isfinite(p) else ""
        often = f"{times:.3g}{limits(low, high)} times as much as" if np.isfinite(times) else "beside"
        clauses.append(f"{_size(here, '')}, {often} {calibration} ({says(here)}{tested})")
    return "; ".join(clauses)


def _size(at: xr.Dataset, prefix: str) -> str:
    low, point, high = (float(v) for v in at["value" if not prefix else f"{prefix}value"].values)
    text = f"{point:.3g}{limits(low, high)}"
    low, point, high = (float(v) for v in at[f"{prefix}unbiased"].values)
    return text + (f", unbiased {point:.3g}{limits(low, high)}" if np.isfinite(point) else "")


def _notes(dataset: xr.Dataset) -> str:
    """What must be known of these sizes, each once."""
    counts = sorted({int(n) for n in dataset["samples"].values.ravel()})
    notes = f" {' or '.join(map(str, counts))} samples, shared by both runs; p of the difference, Holm's over all rows."
    distances = set(dataset["distance"].values.tolist())
    if "mmd" in distances:
        notes += " MMD: times are of the published V-statistic, differences and p of the unbiased U-statistic."
        if any(str(name).startswith("seed ") and ", " not in str(name) for name in dataset["calibration"].values):
            notes += (
                " Pictures of another seed are of the same distribution: their V-statistic is what so few samples make "
                "of no difference."
            )
    if "frechet" in distances and counts[0] < FULL_RANK:
        notes += f" Below {FULL_RANK} samples a Frechet distance is a relative shift, no FID; without interval or test."
    if "score" in dataset["kind"].values:
        notes += " Scores of single pictures: mean changes from the clean pictures; their sizes are compared."
    return notes


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel per metric: calibrations above, arms below, each with its interval; of MMD the unbiased one hollow."""
    metrics, arms = dataset["metric"].values.tolist(), dataset["arm"].values.tolist()
    names = [figures.wrapped(str(name), 26) for name in [*dataset["calibration"].values, *arms]]
    columns = min(len(metrics), 3)
    lines = sum(0.22 + 0.13 * name.count("\n") for name in names)
    canvas, axes = figures.panels(
        -(-len(metrics) // columns), columns, width=max(4.6, 2.6 * columns + 1.4), height=0.9 + lines, sharey=True
    )
    for ax in axes.ravel()[len(metrics) :]:
        ax.set_visible(False)
    for ax, metric in zip(axes.ravel(), metrics, strict=False):
        _panel(ax, dataset.sel(metric=metric), arms, figures.palette(dataset))
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figures.letters(axes)
    samples = int(dataset["samples"].values.max())
    heading = f"{dataset.attrs['title']} · up to {samples} samples · value and 95% BCa interval"
    note = "Hollow: the unbiased U-statistic. No bar: no interval, or one without width." + figures.few(samples)
    figures.legend_above(canvas, *axes.ravel(), heading=heading, note=note)
    return canvas


def _panel(ax: Axes, at: xr.Dataset, arms: list[str], palette: list[str]) -> None:
    most = int(at["samples"].values.argmax())  # an arm is drawn once, on the most samples
    grey: dict[str, Any] = {"color": figures.FLOOR, "marker": "s"}
    rows = [(at.isel(calibration=k), "calibration_", grey) for k in range(at.sizes["calibration"])]
    rows += [
        (at.sel(arm=arm).isel(calibration=most), "", {"marker": "o"} | figures.look(arm, palette, every=None))
        for arm in arms
    ]
    for row, (here, prefix, look) in enumerate(rows):
        look = look | {"markersize": 4.5, "markevery": None, "linestyle": "none"}
        for name, offset, face in ((f"{prefix}value", 0.0, look["color"]), (f"{prefix}unbiased", 0.22, "white")):
            low, point, high = here[name].values
            if np.isfinite(low):
                ax.plot([low, high], [row + offset] * 2, color=look["color"], linewidth=1.3, solid_capstyle="butt")
            label = None if row or not np.isfinite(point) else "as published" if not offset else "unbiased"
            ax.plot(point, row + offset, **look | {"markerfacecolor": face}, label=label)
    ax.axhline(at.sizes["calibration"] - 0.5, color=figures.FLOOR, linewidth=0.8)
    ax.axvline(0, color=figures.FLOOR, linewidth=0.8, linestyle=figures.DASHES)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(figures.wrapped(at["title"].item(), 31), fontsize=7)
    ax.set_title(str(at["metric"].item()), loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(5))
