"""One look for every figure: style, a colour per arm, bands, noise-level axes. It draws what it is given and
computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "savefig.bbox": "tight",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
}
ARMS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7a5195",
    "#8c6d31",
)  # Okabe-Ito, then two more
PARTS = {"injected": "#d55e00", "propagated": "#0072b2", "interaction": "#bbbbbb"}
FAMILIES = {
    "small-world": "#0072b2",
    "preferential": "#d55e00",
    "hub-spoke": "#009e73",
    "local": "#56b4e9",
    "random": "#e69f00",
}
"""Colour of each mask family, in the order in which they are drawn and listed; others follow in `FLOOR`."""
NULL = "#8a8a8a"
FLOOR = "#444444"
WINDOW = "#f6e7c1"


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the project's matplotlib style, leaving the user's own settings alone."""

    @wraps(draw)
    def inner(*args: Any, **options: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **options)

    return inner


def panels(
    rows: int, columns: int, *, width: float = 7.2, height: float = 2.6, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` axes [rows, columns], `height` inches per row; no pyplot state is touched."""
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def colour(arm: str, arms: Sequence[str]) -> str:
    """The colour of an arm: the same in every figure that shows the same arms."""
    shown = [name for name in arms if name not in ("clean", "full")]
    return ARMS[shown.index(arm) % len(ARMS)] if arm in shown else FLOOR


def left_out(total: int, drawn: int) -> str:
    """Small print about arms that are not drawn; empty when all are."""
    return f" {total - drawn} of {total} arms are not drawn; the table has them." if drawn < total else ""


def band(
    axes: Axes,
    x: ArrayLike,
    low: ArrayLike,
    middle: ArrayLike,
    high: ArrayLike,
    *,
    color: str,
    label: str,
    **line: Any,
) -> None:
    """A line with its confidence band."""
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(x, middle, color=color, label=label, **line)


def progress_axis(axes: Axes, steps: int) -> None:
    """The x axis of a sampling run, noise on the left and the image on the right."""
    axes.set_xlim(0, max(steps - 1, 1))
    axes.set_xlabel("step (noise → image)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def letters(axes: np.ndarray) -> None:
    """Prefix the titles with a, b, c, ..."""
    for letter, ax in zip("abcdefghijklmnopqrstuvwxyz", axes.ravel(), strict=False):
        ax.set_title(f"{letter}  {ax.get_title(loc='left')}", loc="left")


def arm_null(axes: Axes, x: ArrayLike, low: ArrayLike, middle: ArrayLike, high: ArrayLike, *, color: str) -> None:
    """The additive null of one arm: hatched in the arm's own colour."""
    axes.fill_between(x, low, high, facecolor="none", edgecolor=color, hatch="/////", alpha=0.35, linewidth=0)
    axes.plot(x, middle, color=color, linewidth=1.0, linestyle=(0, (4, 2)), alpha=0.9)


def one_pass(axes: Axes, x: ArrayLike, error: ArrayLike, *, color: str) -> None:
    """The error of one masked pass at the clean state; one grey entry in the legend for all arms."""
    axes.plot(x, error, color=color, linewidth=1.1, linestyle=(0, (1, 1)))
    axes.plot([], [], color=NULL, linewidth=1.1, linestyle=(0, (1, 1)), label="one masked pass, clean state")


def legend_above(figure: Figure, *axes: Axes, heading: str, note: str = "", null: str = "") -> None:
    """One legend over the panels, headed by which run is shown; `null` adds the hatched band, `note` small print
    below the panels.
    """
    entries: dict[str, Any] = {}
    for ax in axes:
        entries |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels, handles = list(entries), list(entries.values())
    if null:
        handles.append(Patch(facecolor="none", edgecolor=NULL, hatch="/////", linewidth=0))
        labels.append(null)
    legend = figure.legend(
        handles, labels, loc="outside upper left", ncols=min(max(len(labels), 1), 4), title=heading, alignment="left",
        handlelength=1.8, columnspacing=1.4, borderaxespad=0.2, title_fontsize=8.5,
    )  # fmt: skip
    legend.get_title().set_color("#444444")
    if note:
        width = int(figure.get_size_inches()[0] * 19)
        figure.supxlabel(fill(note, width), x=0.01, ha="left", fontsize=7, color="#555555")


def log_axis(axes: Axes, which: str = "y") -> None:
    """A logarithmic axis with plain numbers: 0.01, 0.02, 0.05, 0.1."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = axis.get_view_interval()
    decades = np.log10(max(high, 1e-300) / max(low, 1e-300))
    dense = LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,), numticks=8)
    axis.set_major_locator(MaxNLocator(5) if decades < 0.8 else dense)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def floor_line(axes: Axes, x: ArrayLike, floor: ArrayLike, *, lowest: float) -> None:
    """The numerical floor as a dotted line; far below the data it is told in words, so that it does not flatten the
    curves.
    """
    floor = np.asarray(floor, dtype=float)
    if not np.isfinite(floor).any():
        return
    if np.nanmax(floor) > lowest / 30:
        axes.plot(x, floor, color=FLOOR, linestyle=":", linewidth=1, label="numerical floor (full)")
    else:
        size = f"≤ {np.nanmax(floor):.0e} ↓" if np.nanmax(floor) > 0 else "0 (bit-identical)"
        text = f"numerical floor {size}"
        axes.text(0.03, 0.97, text, transform=axes.transAxes, ha="left", va="top", fontsize=6.5, color=FLOOR)


def band_map(
    figure: Figure, axes: Axes, values: np.ndarray, bands: Sequence[str], *, label: str, edges: np.ndarray | None = None
) -> None:
    """A map of positive `values` [band, step] in a logarithmic colour scale of at most three decades."""
    edges = np.arange(values.shape[1] + 1) - 0.5 if edges is None else edges
    positive = values[np.isfinite(values) & (values > 0)]
    high = positive.max() if positive.size else 1.0
    low = max(positive.min(), high / 1e3) if positive.size else 0.1
    shown = np.ma.masked_where(~(values > 0), values)
    norm = LogNorm(low, max(high, low * 1.01))
    drawn = axes.pcolormesh(edges, np.arange(len(bands) + 1) - 0.5, shown, cmap="magma", norm=norm, rasterized=True)
    axes.set_yticks(range(len(bands)), bands)
    axes.set_ylabel("band")
    axes.grid(False)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=16)
    bar.set_label(label, fontsize=7.5)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
    bar.minorticks_off()
    bar.update_ticks()
    bar.outline.set_visible(False)
