"""Damage per block of one forward pass: classification, retrieval and denoising at the same mask, side by side.

Reads what `classify_clip.depth` measured. A pass is a model, and for a denoiser one noise level; a rising curve shows
how error accumulates over depth, which every one of these models has, and says nothing about sampling steps by itself.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.common.statistics import BOUNDS, bca
from analysis.figures import style as figures
from analysis.measure import shipped

COLOURS = {"vit": "#0072b2", "vit-cls": "#56b4e9", "clip": "#009e73"}


@shipped
def depth(measured: xr.Dataset) -> xr.Dataset:
    """Mean over samples with 95% BCa limits of FVU, its parts and the gain; dims (spec, pass, block, bound).

    measured: dims (spec, pass, block, sample), from `classify_clip.depth.depth`. Raises ValueError for another dataset.
    """
    if measured.attrs.get("schema") != "denoise-trace-depth":
        raise ValueError("this is no depth measurement; make one with `trace sweep depth --mask R4S32`")
    limits = {}
    for name in ("fvu", "injected", "propagated", "interaction", "gain"):
        interval = bca(measured[name].transpose("spec", "pass", "block", "sample").values)
        bounds = np.stack([interval.low, interval.estimate, interval.high], axis=-1)
        limits[name] = (("spec", "pass", "block", "bound"), bounds, measured[name].attrs)
    kept = {name: measured.coords[name] for name in ("spec", "model", "timestep", "block")}
    return xr.Dataset(limits, coords=kept | {"bound": list(BOUNDS)}, attrs=measured.attrs)


def labels(dataset: xr.Dataset) -> list[str]:
    """Name of each pass: the model, with the timestep of a denoiser."""
    pairs = zip(dataset["model"].values.tolist(), dataset["timestep"].values.tolist(), strict=True)
    return [f"{model} t={t}" if t >= 0 else str(model) for model, t in pairs]


@depth.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """FVU after the first and the last block, and the mean gain of the blocks between, one line per spec and pass."""
    lines = []
    for spec in dataset["spec"].values.tolist():
        for index, name in enumerate(labels(dataset)):
            one = dataset.sel(spec=spec).isel({"pass": index})
            last = one["fvu"].isel(block=-1)
            line = {"spec": spec, "pass": name, "first block": float(one["fvu"].isel(block=0).sel(bound="estimate"))}
            line |= {"last block": float(last.sel(bound="estimate"))}
            line |= {"low": float(last.sel(bound="low")), "high": float(last.sel(bound="high"))}
            gain = one["gain"].sel(bound="estimate").values[1:]
            lines.append(line | {"geometric mean gain": float(np.exp(np.log(gain).mean()))})
    return pd.DataFrame(lines)


@depth.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The damage after the last block of every pass, mask by mask."""
    clauses = []
    for spec in dataset["spec"].values.tolist():
        last = dataset["fvu"].sel(spec=spec).isel(block=-1)
        passes = [
            f"{name} {float(value.sel(bound='estimate')):.3f} [{float(value.sel(bound='low')):.3f}, "
            f"{float(value.sel(bound='high')):.3f}]"
            for name, value in zip(labels(dataset), last.transpose("pass", "bound"), strict=True)
        ]
        clauses.append(f"under {spec} the unexplained variance after the last block is " + ", ".join(passes))
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:] + ". One forward pass each; sampling steps play no part."


@depth.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One column per mask: FVU after each block above, the clean block's gain on the error it is handed below."""
    specs = dataset["spec"].values.tolist()
    width = max(4.6, 1.4 + 2.6 * len(specs))
    canvas, axes = figures.panels(2, len(specs), width=width, height=2.2, sharex=True, sharey="row")
    looks = _looks(dataset)
    block = dataset["block"].values + 1
    for column, spec in enumerate(specs):
        for index, name in enumerate(labels(dataset)):
            one = dataset.sel(spec=spec).isel({"pass": index})
            for row, variable in enumerate(("fvu", "gain")):
                bounds = one[variable].transpose("bound", "block").values
                figures.band(axes[row, column], block, *bounds, label=name, markersize=3.5, **looks[index])
        axes[0, column].set_title(str(spec), loc="left")
        axes[1, column].set_title("Gain of the clean block", loc="left")
        axes[1, column].axhline(1, color=figures.FLOOR, linewidth=0.7)
        axes[1, column].set_xlabel("block")
        axes[1, column].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figures.log_axis(axes[0, 0])
    for ax, label in zip(axes[:, 0], ("unexplained variance", "gain on the error"), strict=True):
        ax.set_ylabel(label)
    figures.letters(axes)
    note = (
        "Top row: share of the variance of the residual stream after a block that the mask leaves unexplained. Bottom "
        "row: how much the clean block changes the size of the error that it is handed."
    )
    heading = "one forward pass · mean over samples, 95% BCa bands"
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note)
    return canvas


def _looks(dataset: xr.Dataset) -> list[dict[str, str]]:
    """Colour and symbol of each pass: a colour a model, noise levels of a denoiser from light to dark."""
    levels = sorted({int(t) for t in dataset["timestep"].values if t >= 0})
    looks = []
    for index, (model, timestep) in enumerate(zip(dataset["model"].values, dataset["timestep"].values, strict=True)):
        shade = 0.35 + 0.6 * levels.index(int(timestep)) / max(len(levels) - 1, 1) if timestep >= 0 else 0
        symbol = figures.SYMBOLS[index % len(figures.SYMBOLS)]
        looks.append({"color": COLOURS.get(str(model)) or _orange(shade), "marker": symbol})
    return looks


def _orange(shade: float) -> str:
    return to_hex(colormaps["Oranges"](shade))
