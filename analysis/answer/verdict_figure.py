"""The answer plane: where each intervention lies at each dose, in feedback and in amplification along the trajectory.

It draws what `verdict` found and computes no answer of its own; the margins come from `margins`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis.answer import words
from analysis.answer.margins import MARGIN, SATURATED, SLOPE_MARGIN
from analysis.common.nouns import wording
from analysis.figures import style as figures

BAND = "#ececec"
MOST_ROWS = 12  # cells drawn
MARKERS = ("o", "s", "^", "D", "v")
"""Of the doses, the largest first."""
NAMES = {
    "feedback_interval": ("feedback S", "Do {acted} steps feed on the error?"),
    "along_interval": ("amplification along the trajectory", "Does the trajectory amplify it?"),
    "steps_interval": ("slope p of log S on log N", "Does feedback grow with steps?"),
}
NOTE = (
    "Grey: within the margins. Dots: samples; symbols: means with 95% intervals; outlines: 95% regions of the mean "
    "of both, without the spread of the slope on N*. Open symbols: the error is above half of what two unrelated "
    "pictures differ by, so that growth may not show."
)


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """The plane of feedback and amplification, an ellipse per arm and dose, and the slopes over numbers of steps."""
    known = [name for name in NAMES if np.isfinite(dataset[name]).any()]
    plane_too = {"feedback_interval", "along_interval"} <= set(known)
    rows = [name for name in known if name == "steps_interval" or not plane_too] or ["feedback_interval"]
    rows = rows if not plane_too or "steps_interval" in known else []
    count = plane_too + len(rows)
    shown = min(dataset.sizes["cell"], MOST_ROWS)
    canvas, ((*axes,),) = figures.panels(1, count, width=1.4 + 3.3 * count, height=max(3.4, 1.9 + 0.24 * shown))
    view = dataset.isel(cell=slice(0, MOST_ROWS))
    if plane_too:
        plane(axes[0], view)
    for axis, name in zip(axes[plane_too:], rows, strict=True):
        rows_of(axis, view, name, labelled=axis is axes[0] or plane_too)
    figures.letters(np.array(axes))
    counts = ", ".join(map(str, dataset.attrs["steps"]))
    at = f"judged at {dataset.attrs['at']} of {counts} steps" if len(dataset.attrs["steps"]) > 1 else f"{counts} steps"
    _legend(axes[0], view)
    note = NOTE + figures.left_out(dataset.sizes["cell"], shown)
    figures.legend_above(canvas, axes[0], heading=f"{dataset.attrs['title']} · {at}", note=note)
    return canvas


def plane(axes: Axes, dataset: xr.Dataset) -> None:
    """Feedback against amplification, both logarithmic, with the margins and what lies beyond them."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axvspan(1 / MARGIN, MARGIN, color=BAND, zorder=0)
    axes.axhspan(1 / MARGIN, MARGIN, color=BAND, zorder=0)
    axes.axvline(1, color=figures.NULL, linewidth=0.7)
    axes.axhline(1, color=figures.NULL, linewidth=0.7)
    reach = [np.full((2, 1), 0.65), np.full((2, 1), 1.7)]
    for cell in dataset["cell"].values:
        reach.append(_cell(axes, dataset.sel(cell=cell), *_look(dataset, str(cell))))
    drawn = np.hstack(reach)
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    (left, bottom), (right, top) = drawn.min(axis=1), drawn.max(axis=1)
    axes.set_xlim(left / 1.1, right * 1.1)
    axes.set_ylim(bottom / 1.15, top * 1.2)
    for which in ("x", "y"):
        figures.log_axis(axes, which)
    for text, x, y, side in (
        ("amplified", 0.02, 0.98, ("left", "top")), ("contracted", 0.02, 0.02, ("left", "bottom")),
        ("feedback", 0.98, 0.02, ("right", "bottom")), ("amplified, with feedback", 0.98, 0.98, ("right", "top")),
    ):  # fmt: skip
        axes.text(
            x,
            y,
            text,
            transform=axes.transAxes,
            ha=side[0],
            va=side[1],
            fontsize=6.5,
            color="#777777",
            style="italic",
            zorder=1,
        )
    axes.set_xlabel("feedback S = |y − x| / |w − x|")
    axes.set_ylabel("|N*| / |N| × slope" if dataset.attrs["stochastic"] else "|y − x| / |τ|")
    axes.set_title("Feedback and amplification", loc="left")


def _cell(axes: Axes, view: xr.Dataset, color: str, marker: str, filled: bool) -> np.ndarray:
    """One intervention at one dose; returns the values [2, point] that must be in view."""
    slope = words.limits(view["along_interval"])[1] / words.limits(view["systematic_interval"])[1]
    values = np.stack([view["log_feedback"].values, view["log_systematic"].values + np.log(slope)])
    both = values[:, np.isfinite(values).all(axis=0)]
    axes.plot(*np.exp(both), ".", color=color, alpha=0.25, markersize=2.5, zorder=2)
    starts = int(view["along_starts"])
    if both.shape[1] >= 4 and starts >= 4:
        outline = np.exp(ellipse(both, units=starts))
        axes.plot(*outline, color=color, linewidth=1.1, zorder=3)
    (x_low, x, x_high), (y_low, y, y_high) = (
        words.limits(view[name]) for name in ("feedback_interval", "along_interval")
    )
    axes.plot([x_low, x_high], [y, y], color=color, linewidth=1.2, zorder=4)
    axes.plot([x, x], [y_low, y_high], color=color, linewidth=1.2, zorder=4)
    axes.plot(x, y, marker, color=color, markersize=5, markerfacecolor=color if filled else "white", zorder=5)
    cloud = np.quantile(np.exp(both), (0.02, 0.98), axis=1).T if both.size else np.full((2, 2), np.nan)
    return np.hstack([np.array([[x_low, x, x_high], [y_low, y, y_high]]), cloud])


def rows_of(axes: Axes, dataset: xr.Dataset, name: str, *, labelled: bool = True) -> None:
    """One answer, a row per intervention and dose: estimate, interval, and samples where they are known."""
    label, title = NAMES[name]
    ratio = name != "steps_interval"
    low, high, none = (1 / MARGIN, MARGIN, 1) if ratio else (-SLOPE_MARGIN, SLOPE_MARGIN, 0)
    axes.axvspan(low, high, color=BAND, zorder=0)
    axes.axvline(none, color=figures.NULL, linewidth=0.7)
    cells = [str(cell) for cell in dataset["cell"].values]
    for row, cell in enumerate(cells):
        view, (color, marker, filled) = dataset.sel(cell=cell), _look(dataset, cell)
        if name == "feedback_interval":
            values = np.exp(view["log_feedback"].values)
            axes.plot(values, row + np.linspace(-0.25, 0.25, values.size), ".", color=color, alpha=0.25, markersize=2.5)
        left, middle, right = words.limits(view[name])
        axes.plot([left, right], [row, row], color=color, linewidth=2)
        axes.plot(middle, row, marker, color=color, markersize=5, markerfacecolor=color if filled else "white")
    if ratio:
        axes.set_xscale("log")
        figures.log_axis(axes, "x")
    axes.set_yticks(
        range(len(cells)), [words.named(dataset.sel(cell=cell)) for cell in cells] if labelled else [""] * len(cells)
    )
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    axes.set_title(title.format(acted=wording(dataset).acted), loc="left")


def ellipse(values: np.ndarray, confidence: float = 0.95, points: int = 90, units: int | None = None) -> np.ndarray:
    """Outline [2, point] of the confidence ellipse of the mean of `values` [2, sample].

    Hotelling's T squared over `units` independent units (default: the samples), at least 4. Degenerate spreads give a
    line or a point.
    """
    n = values.shape[1] if units is None else units
    radius = np.sqrt(2 * (n - 1) / (n - 2) * stats.f.ppf(confidence, 2, n - 2) / n)
    level, vectors = np.linalg.eigh(np.cov(values))
    angle = np.linspace(0, 2 * np.pi, points)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return values.mean(axis=1, keepdims=True) + radius * vectors @ (np.sqrt(np.maximum(level, 0))[:, None] * circle)


def _look(dataset: xr.Dataset, cell: str) -> tuple[str, str, bool]:
    """Colour (the intervention's), marker (the dose's) and whether it is filled (not saturated)."""
    view = dataset.sel(cell=cell)
    masks = list(dict.fromkeys(str(mask) for mask in dataset["mask"].values))
    doses = sorted({float(dose) for dose in dataset["dose"].values}, reverse=True)
    marker = MARKERS[doses.index(float(view["dose"])) % len(MARKERS)]
    return figures.colour(str(view["mask"].item()), masks), marker, not float(view["saturation"]) > SATURATED


def _legend(axes: Axes, dataset: xr.Dataset) -> None:
    """One entry per intervention and dose."""
    for cell in dataset["cell"].values:
        color, marker, filled = _look(dataset, str(cell))
        role = " (primary)" if bool(dataset["primary"].sel(cell=cell)) else ""
        label = f"{words.named(dataset.sel(cell=cell))}{role}"
        face = color if filled else "white"
        axes.add_line(
            Line2D([], [], color=color, marker=marker, markerfacecolor=face, markersize=5, linewidth=0, label=label)
        )
