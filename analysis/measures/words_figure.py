"""The picture of word maps: a sample's picture with the map of each word over it, and how alike maps are over steps."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.common import runs
from analysis.figures import style as figures

MOST_ARMS, MOST_WORDS = 3, 6
"""Rows and maps that are drawn."""
CUT = 14
"""Letters of a word above its map."""


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """A row for the clean arm and each other one: picture, then every word over it. Below, correlations over steps."""
    arms = [str(arm) for arm in dataset["arm"].values]
    shown, words = arms[:MOST_ARMS], [str(word) for word in dataset["word_text"].values][:MOST_WORDS]
    columns = max(3, 1 + len(words))
    canvas, axes = figures.panels(len(shown) + 1, columns, width=1.35 * columns + 0.6, height=1.5)
    maps = dataset["map"].sel(arm=shown).isel(word=slice(len(words))).values
    for row, arm in enumerate(shown):
        _draw_picture(axes[row, 0], dataset, arm)
        for column in range(1, columns):
            if column <= len(words):
                _draw_map(axes[row, column], dataset, arm, maps[row, column - 1], maps[:, column - 1])
                if row == 0:
                    axes[row, column].set_title(words[column - 1][:CUT].replace("$", r"\$"), fontsize=8)
            else:
                axes[row, column].set_visible(False)
    for ax in axes[-1]:
        ax.set_visible(False)
    below = canvas.add_subplot(axes[-1, 0].get_gridspec()[-1, :])
    _draw_alike(below, dataset, arms)
    note = (
        f"Maps of sample {dataset.attrs['sample']} in step {dataset.attrs['step']}: attention that a place pays to the "
        "word, in one scale for a word, light is more. Below: correlation of a word's map with clean maps; the word's "
        f"own (lines), other words' of the prompt (dashes); bands, {dataset.attrs['confidence']:.0%} BCa over samples."
    )
    note += figures.left_out(len(arms) - 1, len(shown) - 1)
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    figures.legend_above(canvas, below, heading=heading, note=note)
    return canvas


def _draw_picture(ax: Axes, dataset: xr.Dataset, arm: str) -> None:
    _bare(ax)
    if "picture" in dataset:
        ax.imshow(dataset["picture"].sel(arm=arm).values, interpolation="nearest")
    ax.set_ylabel(arm, fontsize=8)


def _draw_map(ax: Axes, dataset: xr.Dataset, arm: str, values: np.ndarray, every: np.ndarray) -> None:
    """The map over the picture in grey; limits are those of the word in all arms drawn."""
    _bare(ax)
    height, width = values.shape
    extent = (0, width, height, 0)
    if "picture" in dataset:
        grey = dataset["picture"].sel(arm=arm).values.mean(-1)
        ax.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest")
    low, high = np.nanmin(every), np.nanmax(every)  # NaN: places without a token
    ax.imshow(values, cmap="magma", vmin=low, vmax=high, alpha=0.75, extent=extent, interpolation="nearest")


def _bare(ax: Axes) -> None:
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])


def _draw_alike(ax: Axes, dataset: xr.Dataset, arms: list[str]) -> None:
    steps = dataset["frame_step"].values
    for arm in arms:
        colour = figures.colour(arm, arms)
        if arm != runs.CLEAN:
            bounds = runs.bounds(dataset["alike"].sel({"arm": arm, "with": "same word"}))
            figures.band(ax, steps, *bounds, label=arm, color=colour)
        others = dataset["alike"].sel({"arm": arm, "with": "another word", "bound": "estimate"})
        if np.isfinite(others).any():
            label = "clean, two words" if arm == runs.CLEAN else None
            ax.plot(steps, others, color=colour, linestyle=figures.DASHES, linewidth=1, label=label)
    ax.set_xlabel("step (noise → image)")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_ylabel("correlation")
    ax.set_title("A word's map and the clean maps", loc="left")
