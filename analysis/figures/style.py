"""One look for every figure: style, a colour and a symbol per arm, bands, letters, legend, noise-level axes.

It draws what it is given and computes nothing. Text is plain text: a `$` in an arm's name or a prompt is a `$`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from string import ascii_lowercase
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "text.hinting": "none",  # glyphs keep their widths at every resolution
    "text.hinting_factor": 1,
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
    "hatch.linewidth": 0.6,
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
SYMBOLS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Beside the colours, so that arms differ in grey print too."""
PARTS = {"propagated": "#0072b2", "injected": "#e69f00", "interaction": "#dddddd"}
LAYERS = ("#c2b5d8", "#8a6bb8", "#3f1d70")
"""Of layers, first to last; none of them is the colour of an arm."""
KINDS = {"image": "#332288", "text": "#aa4466", "padding": "#999933", "prefix": "#44aa99"}
"""Of kinds of tokens."""
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
DASHES = (0, (4, 2))
FEW = 10
"""Samples below which bootstrap intervals cover clearly less than they say."""


class StyledFigure(Figure):
    """A figure that is drawn and saved in the project's style, whoever does it and whatever the user's settings are."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw it; tick labels and fonts are made only now, and the layout is repeated until it settles."""
        with matplotlib.rc_context(STYLE):
            for ax in self.axes:
                for which, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
                    if isinstance(axis.get_major_formatter(), LogFormatter) and axis.get_scale() == "log":
                        log_axis(ax, which)
            engine = self.get_layout_engine()
            if engine is None:
                super().draw(renderer)
                return
            self._settle(engine)
            self.set_layout_engine("none")  # else it would be laid out once more
            try:
                super().draw(renderer)
            finally:
                self.set_layout_engine(engine)

    def _settle(self, engine: LayoutEngine) -> None:
        """Lay out until no panel moves: panels of fixed aspect and their colour bars need a few passes."""
        before = None
        for _ in range(8):
            engine.execute(self)
            places = np.array([ax.get_position().bounds for ax in self.axes])
            if before is not None and np.allclose(places, before, atol=3e-4):
                break
            before = places

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save it; SVG and PDF hold text as text."""
        with matplotlib.rc_context(STYLE):
            super().savefig(fname, **options)


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
    figure = StyledFigure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def palette(dataset: xr.Dataset) -> list[str]:
    """The arms of a dataset in the order in which `colour` goes through them: those that act on the whole run first."""
    every = [str(arm) for arm in dataset["arm"].values]
    whole = dataset["arm_whole"].values if "arm_whole" in dataset.coords else np.ones(len(every), dtype=bool)
    return sorted(every, key=lambda arm: not whole[every.index(arm)])


def colour(arm: str, arms: Sequence[str]) -> str:
    """The colour of an arm: the same in every figure that shows the same arms."""
    shown = [name for name in arms if name not in ("clean", "full")]
    return ARMS[shown.index(arm) % len(ARMS)] if arm in shown else FLOOR


def look(arm: str, arms: Sequence[str], *, every: float | None = 0.16) -> dict[str, Any]:
    """Colour and symbol of an arm's line; symbols stand `every` so far apart, in diagonals of the panel (None: at every
    point), and are left out where there is one arm.
    """
    shown = [name for name in arms if name not in ("clean", "full")]
    if len(shown) < 2 or arm not in shown:
        return {"color": colour(arm, arms)}
    place = shown.index(arm) % len(SYMBOLS)
    apart = None if every is None else (every * place / len(SYMBOLS), every)
    return {"color": colour(arm, arms), "marker": SYMBOLS[place], "markersize": 3.5, "markevery": apart}


def family_look(family: str) -> dict[str, Any]:
    """Colour and symbol of a mask family."""
    place = list(FAMILIES).index(family) if family in FAMILIES else len(FAMILIES)
    return {"color": FAMILIES.get(family, FLOOR), "marker": SYMBOLS[place], "markersize": 3.5}


def left_out(total: int, drawn: int) -> str:
    """Small print about arms that are not drawn; empty when all are."""
    return f" {total - drawn} of {total} arms are not drawn; the table has them." if drawn < total else ""


def few(samples: int) -> str:
    """Small print where there are too few samples for a bootstrap; empty where there are enough."""
    if samples >= FEW:
        return ""
    return f" Only {samples} samples: below {FEW}, bootstrap intervals are narrower than they say."


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most about `width` characters, broken at spaces, before @ and after ; in a spec."""
    lines = [""]
    for piece in re.split(r"(?<= )|(?<=;)|(?=@)", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() if place else line.rstrip() for place, line in enumerate(lines))


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


def whiskers(
    axes: Axes, x: ArrayLike, low: ArrayLike, middle: ArrayLike, high: ArrayLike, *, place: int, of: int, **look: Any
) -> None:
    """A line with intervals at a few points only, number `place` `of` so many lines side by side: bands would cover
    each other.
    """
    x, low, middle, high = (np.asarray(values, dtype=float) for values in (x, low, middle, high))
    apart = max(1, -(-len(x) // 8))
    chosen = np.arange(len(x)) % apart == place * apart // of
    shift = 0.0 if apart >= of else 0.5 * (place - (of - 1) / 2) / of
    look = {**look, "markevery": None if apart == 1 else list(np.flatnonzero(chosen))}
    axes.plot(x + shift, middle, **look)
    axes.vlines(x[chosen] + shift, low[chosen], high[chosen], color=look["color"], linewidth=1)


def progress_axis(axes: Axes, steps: int, *, cells: bool = False) -> None:
    """The x axis of a sampling run, noise on the left and the image on the right; `cells` leaves room for a map's."""
    axes.set_xlim(*((-0.5, steps - 0.5) if cells else (0, max(steps - 1, 1))))
    axes.set_xlabel("step (noise → image)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def share_limits(row: np.ndarray, *, log: bool = False) -> None:
    """One pair of y limits for a row of panels, labelled at the first."""
    for ax in row:
        ax.set_yscale("log" if log else "linear")
    low, high = zip(*(ax.get_ylim() for ax in row), strict=True)
    for ax in row:
        ax.set_ylim(min(low), max(high))
        if log:
            log_axis(ax)
    for ax in row[1:]:
        ax.tick_params(labelleft=False)


def letters(axes: np.ndarray) -> None:
    """Prefix the titles of the visible panels with a, b, c, ... and break them where a panel ends.

    A lone panel gets no letter. The one place where panels are lettered.
    """
    shown = [ax for ax in axes.ravel() if ax.get_visible()]
    width = int(11 * axes.flat[0].figure.get_size_inches()[0] / axes.shape[-1]) - 3
    for letter, ax in zip(ascii_lowercase, shown, strict=False):
        prefix = f"{letter}  " if len(shown) > 1 else ""
        lines = ax.get_title(loc="left").split("\n")
        text = "\n".join(wrapped(line, width) for line in [prefix + lines[0], *lines[1:]])
        ax.set_title(text.rstrip(), loc="left")


def arm_null(
    axes: Axes, x: ArrayLike, low: ArrayLike, middle: ArrayLike, high: ArrayLike, *, color: str, label: str
) -> None:
    """The additive null of one arm: hatched between its edges in the arm's own colour, its estimate dashed."""
    axes.fill_between(
        x, low, high, facecolor="none", edgecolor=color, hatch="/////", alpha=0.55, linewidth=0.8, label=label
    )
    axes.plot(x, middle, color=color, linewidth=1.0, linestyle=DASHES, alpha=0.9, zorder=1.9)


def one_pass(axes: Axes, x: ArrayLike, error: ArrayLike, *, color: str, acted: str = "masked") -> None:
    """The error of one `acted` pass at the clean state, dotted; it ends where nothing acts."""
    error = np.asarray(error, dtype=float)
    shown = np.where(error > 0, error, np.nan)
    axes.plot(x, shown, color=color, linewidth=1.3, linestyle=(0, (1, 1)), label=f"one {acted} pass, clean state")


def legend_above(figure: Figure, *axes: Axes, heading: str, note: str = "") -> None:
    """One legend over the panels, headed by which run is shown; `note` is small print below the panels.

    A label that several artists of a panel have is one entry that shows them all, so that its colours are those drawn.
    """
    entries: dict[str, list[Any]] = {}
    for ax in axes:
        own: dict[str, list[Any]] = {}
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            own.setdefault(label, []).append(handle)
        entries |= {label: several for label, several in own.items() if label not in entries}
    handles: list[Any] = [several[0] if len(several) == 1 else tuple(several) for several in entries.values()]
    width, height = figure.get_size_inches()
    heading, note = fill(heading, int(width * 15)), fill(note.strip(), int(width * 17))
    columns = _columns(list(entries), width)
    legend = figure.legend(
        handles, list(entries), loc="outside upper left", ncols=columns, title=heading, alignment="left",
        handlelength=1.8, columnspacing=1.4, borderaxespad=0.2, title_fontsize=8.5,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.15)},
    )  # fmt: skip
    legend.get_title().set_color("#444444")
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7, color="#555555")
    more_rows = -(-len(entries) // columns) - 1 + heading.count("\n")  # the panels keep their height
    figure.set_figheight(height + 0.16 * max(more_rows, 0) + 0.12 * note.count("\n"))


def legend_beside(row: np.ndarray) -> None:
    """One legend to the right of a row of panels; a label drawn in several colours is one entry that shows them all."""
    entries: dict[str, dict[str, Any]] = {}
    for ax in row:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            drawn = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
            entries.setdefault(label, {}).setdefault(str(drawn), handle)
    handles: list[Any] = [
        tuple(several.values()) for several in reversed(entries.values())
    ]  # upwards, as areas are stacked
    row[-1].legend(
        handles, list(reversed(entries)), loc="center left", bbox_to_anchor=(1.02, 0.5), borderaxespad=0,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.15)},
    )  # fmt: skip


def _columns(labels: list[str], width: float) -> int:
    """As many columns as fit a legend of these labels into a figure `width` inches wide, at most 4."""
    size = float(STYLE["legend.fontsize"])
    widths = [TextPath((0, 0), label, size=size).get_extents().width * 1.08 + 4.2 * size for label in labels if label]
    for columns in range(min(4, len(widths)), 1, -1):
        rows = -(-len(widths) // columns)
        if sum(max(widths[start : start + rows]) for start in range(0, len(widths), rows)) <= 72 * width:
            return columns
    return 1


def log_axis(axes: Axes, which: str = "y") -> None:
    """A logarithmic axis with plain numbers: 0.01, 0.02, 0.05, 0.1."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = axis.get_view_interval()
    if 0 < low < high < 1.02 * low:  # rounding is not to be looked at
        low, high = low / 1.02, high * 1.02
        (axes.set_ylim if which == "y" else axes.set_xlim)(low, high)
    decades = np.log10(max(high, 1e-300) / max(low, 1e-300))
    dense = LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,), numticks=8)
    axis.set_major_locator(MaxNLocator(5) if decades < 0.8 else dense)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def floor_line(axes: Axes, x: ArrayLike, floor: ArrayLike, *, lowest: float, named: bool = True) -> None:
    """The numerical floor as a dotted line, `named` in the legend; far below the data it is in the legend alone, so
    that it does not flatten the curves; the table has its size.
    """
    floor = np.asarray(floor, dtype=float)
    if not np.isfinite(floor).any():
        return
    highest = np.nanmax(floor)  # NaN: steps without a floor
    look: dict[str, Any] = {"color": FLOOR, "linestyle": ":", "linewidth": 1}
    if highest > lowest / 30:
        axes.plot(x, floor, label="numerical floor (full)" if named else None, **look)
    elif named:
        where = "far below the panels" if highest > 0 else "0 (bit-identical)"
        axes.plot([], [], label=f"numerical floor {where}", **look)


def map_limits(values: Sequence[ArrayLike]) -> tuple[float, float]:
    """Limits of a logarithmic colour scale for several maps: from the largest value down, at most three decades."""
    every = np.concatenate([np.ravel(one) for one in values])
    positive = every[np.isfinite(every) & (every > 0)]
    high = float(positive.max()) if positive.size else 1.0
    low = max(float(positive.min()), high / 1e3) if positive.size else 0.1
    return low, max(high, low * 1.01)


def band_map(
    figure: Figure,
    axes: Axes,
    values: np.ndarray,
    bands: Sequence[str],
    *,
    label: str,
    limits: tuple[float, float],
    edges: np.ndarray | None = None,
) -> None:
    """A map of positive `values` [band, step] in a logarithmic colour scale; smaller values are as dark as the lowest,
    what is not positive stays white.
    """
    edges = np.arange(values.shape[1] + 1) - 0.5 if edges is None else edges
    shown = np.ma.masked_where(~(values > 0), values)
    norm = LogNorm(*limits)
    below = "min" if (shown < limits[0]).any() else "neither"
    drawn = axes.pcolormesh(edges, np.arange(len(bands) + 1) - 0.5, shown, cmap="magma", norm=norm, rasterized=True)
    axes.set_yticks(range(len(bands)), bands)
    axes.set_ylabel("band")
    axes.grid(False)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=16, extend=below)
    bar.set_label(label, fontsize=7.5)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
    bar.minorticks_off()
    bar.update_ticks()
    bar.outline.set_visible(False)
