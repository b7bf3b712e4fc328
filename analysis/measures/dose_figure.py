"""Pictures of removal arms together: distance against the attention removed, and every pair's difference as intervals.

They draw what `sinks` found and compute nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.common import runs
from analysis.figures import style as figures

LOOKS = {"sink": ("#d55e00", "D"), "random": ("#0072b2", "o"), "mass": ("#56b4e9", "s"), "other": (figures.NULL, "x")}
MOST_NAMED = 12  # arms whose names are written beside their points
MOST_ROWS = 14  # pairs drawn


def draw_dose(ax: Axes, dataset: xr.Dataset, arms: Sequence[str]) -> None:
    """A point per removal arm, means over samples; per sink arm the line of its random arms, and the gap to it."""
    at, mass = dataset.isel(dosable=0), dataset["removed_mass"]
    for arm in arms:
        color, marker = LOOKS[_role(dataset, arm)]
        x, y = float(mass.sel(removal=arm)), float(at["dose_distance"].sel(removal=arm))
        ax.plot([x], [y], marker=marker, color=color, linestyle="", markersize=5)
        if len(arms) <= MOST_NAMED:
            ax.annotate(figures.wrapped(arm, 18), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=5.5)
    for names in dict.fromkeys(str(names) for names in at["dose_random_arms"].values):
        _draw_line(ax, at, mass, names.split(", "))
    figures.log_axis(ax)
    figures.log_axis(ax, "x")
    ax.margins(0.12)
    ax.set_title("Distance against attention removed", loc="left")
    ax.set_xlabel("share of attention removed")
    ax.set_ylabel(f"{dataset['dosable'].values[0]} distance to clean")


def _draw_line(ax: Axes, at: xr.Dataset, mass: xr.DataArray, names: list[str]) -> None:
    """The mean line of these random arms, through the mean of their points, over the masses they cover."""
    x = np.log([float(mass.sel(removal=name)) for name in names])
    y = np.log([float(at["dose_distance"].sel(removal=name)) for name in names])
    own = at.isel(dosed=int(np.flatnonzero(at["dose_random_arms"].values == ", ".join(names))[0]))
    slope = float(own["dose_slope"].sel(bound="estimate"))
    ends = np.array([x.min(), x.max()])
    ax.plot(np.exp(ends), np.exp(y.mean() + slope * (ends - x.mean())), color=figures.NULL, linestyle=figures.DASHES)


def _role(dataset: xr.Dataset, arm: str) -> str:
    if arm in dataset["dosed"].values:
        return "sink"
    if all(arm not in str(names).split(", ") for names in dataset["dose_random_arms"].values.ravel()):
        return "other"
    return "mass" if dataset["removed_gap"].sel(removal=arm).notnull() else "random"


def draw_intervals(ax: Axes, dataset: xr.Dataset) -> None:
    """Sink minus random of the first measure as a row a pair, with intervals; hollow where Holm's p is 0.05 or more."""
    at = dataset.isel(measure=0, pair=slice(0, MOST_ROWS))
    for place, pair in enumerate(at["pair"].values):
        own = at.sel(pair=pair)
        low, mean, high = (float(bound) for bound in runs.bounds(own["difference"]))
        sure = float(own["p_holm"]) < 0.05
        ax.plot([low, high], [place, place], color=figures.FLOOR, linewidth=1.4)
        ax.plot(
            [mean], [place], "o", color=figures.FLOOR, markerfacecolor=figures.FLOOR if sure else "white", markersize=4
        )
    ax.axvline(0, color=figures.NULL, linewidth=0.8)
    labels = [
        f"{sink}\n− {random}" for sink, random in zip(at["sink_arm"].values, at["random_arm"].values, strict=True)
    ]
    ax.set_yticks(range(at.sizes["pair"]), labels, fontsize=6)
    ax.set_ylim(at.sizes["pair"] - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_title("Sink minus random, every pair", loc="left")
    ax.set_xlabel(f"{at['measure'].values}, difference")


def note(dataset: xr.Dataset, dosed: bool) -> str:
    """What these panels show."""
    pairs = dataset.sizes["pair"]
    text = " Every pair: intervals as in the effect; hollow, Holm's p over these pairs is 0.05 or more."
    text += f" {MOST_ROWS} of {pairs} pairs are drawn." if pairs > MOST_ROWS else ""
    if dosed:
        text += (
            " Against attention: diamonds, sinks; circles, random keys of equal count; squares, of equal attention; "
            "dashed, their line."
        )
    return text
