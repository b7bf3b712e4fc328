"""The picture of what makes a sink: the top keys beside the others, what decides about mass, mass by text slot.

It draws what `anatomy` found and computes nothing.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style as figures

WORDS = {"key_norm": "key\nnorm", "value_norm": "value\nnorm", "key_query": "mean\nlogit", "key_cosine": "cosine"}


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Ratios of the top keys, shares of variance by level, what single properties explain, and mass by text slot."""
    canvas, axes = figures.panels(1, 4, width=10.4, height=2.9)
    quantities = [str(own) for own in dataset["quantity"].values]
    _bars(axes[0, 0], dataset["ratio"], "quantity", ["mass", *(WORDS[own] for own in quantities[1:])])
    figures.log_axis(axes[0, 0])
    axes[0, 0].axhline(1, color=figures.FLOOR, linewidth=0.7)
    axes[0, 0].set_title("Top key / others", loc="left")
    axes[0, 0].set_ylabel("ratio, by kind")
    _bars(axes[0, 1], dataset["share"], "level", [str(own) for own in dataset["level"].values])
    axes[0, 1].set_title("Which key, by level", loc="left")
    _bars(axes[0, 2], dataset["line"], "property", [WORDS[str(own)] for own in dataset["property"].values])
    axes[0, 2].set_title("By one property", loc="left")
    for ax in axes[0, 1:3]:
        ax.set_ylabel("share of variance")
        ax.set_ylim(min(-0.05, ax.get_ylim()[0]), 1.02)
        ax.axhline(0, color=figures.FLOOR, linewidth=0.7)
    _slots(axes[0, 3], dataset)
    figures.letters(axes)
    note = (
        "a: mean over the others of the same kind, geometric mean over steps, layers and samples, 95% BCa bars. b, c: "
        "variance of log mass within a kind, every sample, step and layer by itself, chance taken off, 95% jackknife "
        "bars over prompts. d: mean over samples, steps and layers; 1 is uniform attention."
    )
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples of {dataset.attrs['prompts']} prompts"
    figures.legend_above(canvas, axes[0, 0], heading=f"{heading} · clean arm", note=note)
    return canvas


def _bars(ax: Axes, values: xr.DataArray, dim: str, names: list[str]) -> None:
    """Points with intervals: a group for each entry of a dimension, a colour for each kind."""
    kinds = [str(kind) for kind in values["kind"].values]
    for place, kind in enumerate(kinds):
        low, middle, high = values.sel(kind=kind).transpose("bound", dim).values
        x = np.arange(len(names)) + 0.6 * (place - (len(kinds) - 1) / 2) / max(len(kinds), 1)
        ax.vlines(x, low, high, color=figures.KINDS[kind], linewidth=1.2)
        points = ax.plot(x, middle, label=kind, color=figures.KINDS[kind], linestyle="none")[0]
        points.set(marker=figures.SYMBOLS[place], markersize=4)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.6, len(names) - 0.4)


def _slots(ax: Axes, dataset: xr.Dataset) -> None:
    """Mass of each text slot, of words and of padding."""
    for place, kind in enumerate(dataset["kind"].values):
        values = dataset["slot"].sel(kind=kind).values
        there = np.isfinite(dataset["slot"].values).any(0)
        if np.isfinite(values).any():
            line = ax.plot(np.arange(there.sum()), values[there], color=figures.KINDS[str(kind)], linewidth=0.8)[0]
            line.set(marker=figures.SYMBOLS[place], markersize=2.5)
    ax.axhline(1, color=figures.FLOOR, linewidth=0.7)
    figures.log_axis(ax)
    ax.set_xlabel("text slot")
    ax.set_ylabel("mass, of uniform")
    ax.set_title("Mass by text slot", loc="left")
