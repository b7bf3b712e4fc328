"""The figure of `tradeoff`: error against cost, the frontier among the arms, and fewer steps as a line."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.common import costs, runs
from analysis.figures import style as figures

LABELS = {"evaluations": "network evaluations / clean", "time": "time / clean", "arithmetic": "multiply-adds / clean"}
TITLES = {"error": "Final error", "systematic": "Systematic part, |N*|"}
MOST_ARMS = 16


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel of the total error, one of its systematic part where that is known, one per metric asked for."""
    shown = [name for name in TITLES if np.isfinite(dataset[name]).any()]
    metrics = dataset["metric"].values.tolist() if "scores" in dataset else []
    canvas, axes = figures.panels(1, len(shown) + len(metrics), width=max(4.4, 3.3 * (len(shown) + len(metrics)) + 0.6),
                                  height=3.2)  # fmt: skip
    arms = [str(arm) for arm in dataset["arm"].values if not bool(dataset["control"].sel(arm=arm))][:MOST_ARMS]
    for ax, name in zip(axes[0], shown, strict=False):
        _panel(ax, dataset, name, arms)
    for ax, metric in zip(axes[0, len(shown) :], metrics, strict=True):
        _quality(ax, dataset.sel(metric=metric), arms)
    figures.letters(axes)
    cost = str(dataset.attrs["cost"])
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples · cost: {costs.SAYS[cost]}"
    note = "Bars: 95% intervals. Grey steps: the frontier, arms that no other beats in both. " + _not_there(
        dataset, shown
    )
    note += figures.few(dataset.attrs["starts"])
    note += figures.left_out(int((~dataset["control"]).sum()), len(arms))
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note)
    return canvas


def _panel(ax: Axes, dataset: xr.Dataset, name: str, arms: list[str]) -> None:
    values = dataset[name].transpose("arm", "bound").values
    _frontier(ax, dataset, values, "frontier" if name == "error" else "systematic_frontier")
    _controls(ax, dataset, values)
    for arm in arms:
        _point(ax, dataset.sel(arm=arm), dataset[name].sel(arm=arm), arm, arms)
    ax.set_ylabel("relative to the clean final state")
    ax.set_title(TITLES[name], loc="left")
    _axes(ax, dataset)
    if (values > 0).any():
        figures.log_axis(ax)


def _axes(ax: Axes, dataset: xr.Dataset) -> None:
    ax.set_xlabel(LABELS[str(dataset.attrs["cost"])])
    middle = dataset["cost"].sel(bound="estimate").values
    known = middle[np.isfinite(middle) & (middle > 0)]
    if known.size:
        ax.set_xlim(min(known.min() / 1.15, 0.85), max(known.max() * 1.15, 1.15))
        figures.log_axis(ax, "x")
    ax.axvline(1, color=figures.NULL, linewidth=0.7, zorder=0)


def _point(ax: Axes, at: xr.Dataset, value: xr.DataArray, arm: str, arms: list[str]) -> None:
    """An arm with the intervals of both coordinates; one without error or of unknown cost is in the legend alone."""
    x, y = (np.array([float(bound) for bound in runs.bounds(each)]) for each in (at["cost"], value))
    look = (
        {"marker": "o"}
        | figures.look(arm, arms, every=None)
        | {"markersize": 5, "markevery": None, "linestyle": "none"}
    )
    if not (np.isfinite(x[1]) and y[1] != 0 and np.isfinite(y[1])):
        ax.plot([], [], label=f"{arm} (not drawn)", **look)
        return
    if np.isfinite(y[0]):
        ax.plot([x[1]] * 2, [y[0], y[2]], color=look["color"], linewidth=1.2, solid_capstyle="butt")
    if np.isfinite(x[0]) and x[0] < x[2]:
        ax.plot([x[0], x[2]], [y[1]] * 2, color=look["color"], linewidth=1.2, solid_capstyle="butt")
    ax.plot(x[1], y[1], label=arm, zorder=3, **look)


def _frontier(ax: Axes, dataset: xr.Dataset, values: np.ndarray, which: str) -> None:
    """Steps through the arms of the frontier: what is reached at each cost."""
    on = dataset[which].values & (values[:, 1] > 0)
    x, y = dataset["cost"].sel(bound="estimate").values[on], values[on, 1]
    if x.size < 2:
        return
    order = np.argsort(x)
    ax.step(x[order], y[order], where="post", color="#cccccc", linewidth=3, zorder=0.5, label="frontier")


def _controls(ax: Axes, dataset: xr.Dataset, values: np.ndarray) -> None:
    is_control = dataset["control"].values & (values[:, 1] > 0)
    if not is_control.any():
        return
    x = dataset["cost"].sel(bound="estimate").values[is_control]
    order = np.argsort(x)
    low, middle, high = values[is_control][order].T
    ax.plot(x[order], middle, color=figures.FLOOR, linestyle=figures.DASHES, marker="x", markersize=4.5, linewidth=1.1,
            label="fewer steps")  # fmt: skip
    ax.vlines(x[order], low, high, color=figures.FLOOR, linewidth=0.9)


def _quality(ax: Axes, at: xr.Dataset, arms: list[str]) -> None:
    """A metric beside cost: its change from clean, or its distance to clean."""
    controls = [str(arm) for arm in at["arm"].values if bool(at["control"].sel(arm=arm))]
    for arm in controls:
        ax.plot(*_middle(at, arm), "x", color=figures.FLOOR, markersize=4.5)
    for arm in arms:
        _point(ax, at.sel(arm=arm), at["scores"].sel(arm=arm), arm, arms)
    ax.axhline(0, color=figures.NULL, linewidth=0.7, zorder=0)
    ax.set_title(figures.wrapped(str(at["score_title"].item()), 32), loc="left")
    _axes(ax, at)


def _middle(at: xr.Dataset, arm: str) -> tuple[float, float]:
    one = at.sel(arm=arm, bound="estimate")
    return float(one["cost"]), float(one["scores"])


def _not_there(dataset: xr.Dataset, shown: list[str]) -> str:
    unknown = [str(arm) for arm in dataset["arm"].values[~np.isfinite(dataset["cost"].sel(bound="estimate").values)]]
    text = f"Of unknown cost: {', '.join(unknown)}. " if unknown else ""
    exact = [str(arm) for arm in dataset["arm"].values[dataset["error"].sel(bound="estimate").values == 0]]
    text += f"Without any error: {', '.join(exact)}. " if exact else ""
    return text + ("" if "systematic" in shown else "The systematic part of the error was not recorded.")
