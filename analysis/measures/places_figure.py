"""The picture of where the heaviest keys sit: ratios of the places, the map of the grid, layers, and a moved run.

It draws what `places` found and computes nothing but means.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.common import runs
from analysis.figures import style as figures

MOST_LINES = 5  # places drawn over layers
LEAST = 1e-2  # a ratio below it is drawn at the edge


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Ratio of every place, map of the grid, ratio over layers, and what the sinks of a moved run follow."""
    draws = [_draw_ratios]
    draws += [_draw_map] if "map" in dataset else []
    draws += [_draw_layers] if dataset.sizes["layer"] > 1 else []
    draws += [_draw_follow] if "follows" in dataset else []
    columns = min(len(draws), 2)
    rows = -(-len(draws) // columns)
    canvas, axes = figures.panels(rows, columns, width=4.1 * columns, height=2.9)
    for ax, draw in zip(axes.flat, draws, strict=False):
        draw(ax, dataset)
    for ax in axes.flat[len(draws) :]:
        ax.set_visible(False)
    figures.letters(axes)
    count = dataset.attrs["top"]
    sets = "the heaviest key" if count == 1 else f"the {count} heaviest keys"
    note = (
        f"Clean arm; top keys: {sets} of each layer and step, mass a mean over heads and queries. Bars and bands: "
        f"{dataset.attrs['confidence']:.0%} BCa intervals over samples.{figures.few(dataset.attrs['samples'])} Ratios "
        f"below {LEAST:g} are drawn there."
    )
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note)
    return canvas


def _draw_ratios(ax: Axes, dataset: xr.Dataset) -> None:
    """A point with its interval for every place and quantity, on a logarithmic axis."""
    names = [str(name) for name in dataset["place"].values]
    y = np.arange(len(names))
    for shift, quantity in zip((-0.12, 0.12), dataset["quantity"].values, strict=True):
        low, middle, high = (np.maximum(v.values, LEAST) for v in runs.bounds(dataset["ratio"].sel(quantity=quantity)))
        color, marker = (figures.ARMS[0], "o") if shift < 0 else (figures.ARMS[4], "s")
        ax.hlines(y + shift, low, high, color=color, linewidth=1)
        ax.plot(middle, y + shift, linestyle="", markersize=4, label=str(quantity), color=color, marker=marker)
    ax.axvline(1, color=figures.NULL, linestyle=figures.DASHES, linewidth=1)
    figures.log_axis(ax, "x")
    ax.set_yticks(y, [f"{name} ({float(e):.1%})" for name, e in zip(names, dataset["expected"], strict=True)])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("share / share of the keys")
    ax.set_title("Where heavy keys sit", loc="left")


def _draw_map(ax: Axes, dataset: xr.Dataset) -> None:
    """How often an image key is the top one, frames side by side."""
    grid = dataset["map"].values
    shown = np.full((grid.shape[1], grid.shape[0] * (grid.shape[2] + 1) - 1), np.nan)
    for frame, cells in enumerate(grid):
        shown[:, frame * (grid.shape[2] + 1) :][:, : grid.shape[2]] = cells
    image = ax.imshow(100 * shown, cmap="viridis", interpolation="nearest", vmin=0)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="% of cases", shrink=0.8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("token column" + (", frame by frame" if len(grid) > 1 else ""))
    ax.set_ylabel("token row")
    ax.set_title("Top image key", loc="left")


def _draw_layers(ax: Axes, dataset: xr.Dataset) -> None:
    """Ratio of the top keys over layers, of the places that have most of them for their size."""
    at = dataset.sel(quantity="top keys")
    ratio = at["ratio"].sel(bound="estimate")
    chosen = ratio.sortby(ratio, ascending=False)["place"].values[:MOST_LINES]
    for place, name in enumerate(chosen):
        bounds = [np.maximum(v.values, LEAST) for v in runs.bounds(at["ratio_of_layer"].sel(place=name))]
        color, marker = figures.ARMS[place], figures.SYMBOLS[place]
        layers = dataset["layer"].values
        figures.band(ax, layers, *bounds, label=str(name), color=color, marker=marker, markersize=3)
    ax.axhline(1, color=figures.NULL, linestyle=figures.DASHES, linewidth=1)
    figures.log_axis(ax)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel("top keys / expected")
    ax.set_title("Over layers", loc="left")
    ax.legend(fontsize=6, ncols=2)


def _draw_follow(ax: Axes, dataset: xr.Dataset) -> None:
    """What the plain and the moved run share, at the same position and with the content."""
    at = dataset["follows"].sel(follow="top keys")
    frames = [str(frame) for frame in at["frame"].values]
    x = np.arange(len(frames))
    for shift, when, color in zip((-0.12, 0.12), at["when"].values, (figures.ARMS[0], figures.ARMS[1]), strict=True):
        low, middle, high = (v.values for v in runs.bounds(at.sel(when=when)))
        ax.vlines(x + shift, low, high, color=color, linewidth=1)
        ax.plot(x + shift, middle, "o", color=color, markersize=4, label=str(when))
    expected = float(dataset["follows_expected"].sel(follow="top keys"))
    ax.axhline(expected, color=figures.NULL, linestyle=figures.DASHES, linewidth=1, label="anywhere")
    ax.set_xticks(x, frames)
    ax.set_xlim(-0.5, len(frames) - 0.5)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("top image keys shared")
    ax.set_title(f"Picture moved by {dataset.attrs['moved']}", loc="left")
    ax.legend(fontsize=6)
