"""The picture of quality: one panel per metric with every arm, and one more per metric that has a reference.

It draws what `quality` found and computes nothing.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.common import runs
from analysis.figures import style as figures


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel per metric: the value of every arm with its interval, the clean value as a line."""
    metrics = [(str(metric), "value") for metric in dataset["metric"].values]
    if "to_reference" in dataset:
        there = dataset["to_reference"].notnull().any(("arm", "bound"))
        metrics += [(str(metric), "to_reference") for metric in dataset["metric"].values[there.values]]
    arms = [str(arm) for arm in dataset["arm"].values if arm != runs.CLEAN]
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    names = [figures.wrapped(arm, 22) for arm in arms]
    lines = max((1 + name.count("\n") for name in names), default=1)
    height = 0.9 + len(arms) * (0.15 + 0.13 * lines + 0.12 * ("replayed" in dataset))
    canvas, axes = figures.panels(rows, columns, width=max(4.4, 2.7 * columns + 0.8), height=height, sharey=True)
    for ax in axes.ravel()[len(metrics) :]:
        ax.set_visible(False)
    for ax, (metric, name) in zip(axes.ravel(), metrics, strict=False):
        _panel(ax, dataset.sel(metric=metric), name, arms, figures.palette(dataset))
    axes[0, 0].set_yticks(range(len(arms)), names)
    axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    figures.letters(axes)
    samples = dataset.attrs["samples"]
    heading = f"{dataset.attrs['title']} · {samples} samples · symbol and bar: value and 95% BCa interval"
    note = "No bar: no interval, or one without width." + figures.few(samples)
    figures.legend_above(canvas, *axes.ravel(), heading=heading, note=note)
    return canvas


def _panel(ax: Axes, at: xr.Dataset, name: str, arms: list[str], palette: list[str]) -> None:
    """One metric: a row per arm, the clean value as a line where the metric gives it one; name: value, to_reference."""
    for row, arm in enumerate(arms):
        low, point, high = at[name].sel(arm=arm).values
        look = {"marker": "o"} | figures.look(arm, palette, every=None) | {"markersize": 4.5, "markevery": None}
        if np.isfinite(low):
            ax.plot([low, high], [row, row], color=look["color"], linewidth=1.6, solid_capstyle="butt")
        ax.plot(point, row, linestyle="none", **look)
        if name == "value" and "replayed" in at and np.isfinite(at["replayed"].sel(arm=arm)).any():
            low, point, high = at["replayed"].sel(arm=arm).values
            ax.plot([low, high], [row + 0.22] * 2, color=look["color"], linewidth=0.8, alpha=0.7)
            hollow = {"marker": "D", "markersize": 3.5, "markerfacecolor": "white", "color": look["color"]}
            ax.plot(point, row + 0.22, linestyle="none", **hollow, label="its replay" if row == len(arms) - 1 else None)
    if name == "to_reference" or str(at["kind"].values) == "score":
        low, point, high = at[name].sel(arm=runs.CLEAN).values
        ax.axvspan(low, high, color=figures.FLOOR, alpha=0.12, linewidth=0, zorder=0, label="clean, interval")
        ax.axvline(point, color=figures.FLOOR, linewidth=1, linestyle=figures.DASHES, zorder=1, label="clean")
    ax.grid(axis="y", visible=False)
    title = at["title"].item() if name == "value" else f"{at['title'].item().replace(' to clean', '')} to reference"
    ax.set_xlabel(figures.wrapped(title, 31), fontsize=7)
    better = "higher" if bool(at["higher_is_better"]) else "lower"
    ax.set_title(f"{at['metric'].item()} ({better} better)", loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(5))
