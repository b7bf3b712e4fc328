"""The pictures of a verdict: where each mask lies in the plane of log A and p, and how its error came about.

It draws what `verdict` found and computes no answer of its own; the margins come from `rule`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from analysis.answer import references
from analysis.answer.rule import LOG_AMPLIFICATION_MARGIN, SLOPE_MARGIN
from analysis.figures import style as figures

REGIONS = {  # label -> colour, (x0, x1), (y0, y1) in (log A, p); None is open
    "multiplicative": ("#f6d5c9", (LOG_AMPLIFICATION_MARGIN, None), (SLOPE_MARGIN, None)),
    "amplifying": ("#fbeccb", (LOG_AMPLIFICATION_MARGIN, None), (None, SLOPE_MARGIN)),
    "additive": ("#d9e9f3", (-LOG_AMPLIFICATION_MARGIN, LOG_AMPLIFICATION_MARGIN), (None, SLOPE_MARGIN)),
    "contractive": ("#d8ecdf", (None, -LOG_AMPLIFICATION_MARGIN), (None, SLOPE_MARGIN)),
}
APART = 0.25  # landmarks nearer than this to one that is drawn, in log A and in units of the p axis, are left out
LINEAR = 0.1  # p is linear up to about here and logarithmic beyond: the margin and gain 1.01 share an axis


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """The verdict plane, and the waterfall from injections to the actual error."""
    canvas, ((left, right),) = figures.panels(1, 2, width=8.4, height=3.9, width_ratios=(1.15, 1))
    plane(left, dataset)
    waterfall(right, dataset)
    figures.letters(np.array([left, right]))
    counts = ", ".join(map(str, dataset.attrs["steps"]))
    heading = f"{dataset.attrs['title']} · {counts} steps · A at {dataset.attrs['at']}"
    canvas.suptitle(heading, fontsize=8.5, x=0.01, ha="left")
    return canvas


def plane(axes: Axes, dataset: xr.Dataset) -> None:
    """The plane of A and p: regions of the rule, landmarks, and for each cell samples, mean, and its 95% ellipse.

    Samples and ellipse are those that have both A and p; the dot is the mean of all there are of each.
    """
    cells = [str(cell) for cell in dataset["cell"].values]
    measured = bool(np.isfinite(dataset["step_slope"]).any())
    x = np.concatenate([np.exp(dataset["log_amplification"].values).ravel(), [0.05, 8.0]])
    axes.set_xscale("log")
    axes.set_xlim(np.nanmin(x) / 1.3, np.nanmax(x) * 1.3)
    if measured:
        _slope_axis(axes, dataset)
    else:
        _no_slope_axis(axes, dataset)
    for row, cell in enumerate(cells):
        color, view = figures.colour(cell, cells), dataset.sel(cell=cell)
        label = f"{cell}{' (primary)' if cell == dataset.attrs['primary'] else ''}: {view['label_holm'].item()}"
        if measured:
            _cloud(axes, view, color, label)
        else:
            _only_amplification(axes, view, row, color, label)
    figures.log_axis(axes, "x")
    axes.set_xlabel("amplification A (error over its additive null)")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), ncols=2, fontsize=6.5)


def _slope_axis(axes: Axes, dataset: xr.Dataset) -> None:
    slopes = dataset["step_slope"].values
    axes.set_yscale("asinh", linear_width=LINEAR)
    axes.set_ylim(min(-2.2, 1.3 * np.nanmin(slopes)), max(4.5, 1.3 * np.nanmax(slopes)))
    _regions(axes)
    for name, (amplification, slope) in _landmarks(dataset).items():
        axes.plot(amplification, slope, "x", color="#666666", markersize=4, markeredgewidth=1)
        axes.annotate(
            name, (amplification, slope), (0, -4), textcoords="offset points", fontsize=6, color="#666666",
            ha="center", va="top",
        )  # fmt: skip
    ticks = [-1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("slope p of log A on log N")
    axes.set_title("Verdict plane", loc="left")


def _landmarks(dataset: xr.Dataset) -> dict[str, tuple[float, float]]:
    """Where known systems lie at the numbers of steps shown; of those that would fall on each other the first."""
    drawn: dict[str, tuple[float, float]] = {}
    known = references.landmarks(dataset.attrs["at"], dataset.attrs["steps"])
    for name in ("additive", *(name for name in known if name != "additive")):
        place = np.array([np.log(known[name][0]), np.arcsinh(known[name][1] / LINEAR)])
        others = [np.array([np.log(a), np.arcsinh(p / LINEAR)]) for a, p in drawn.values()]
        if all(np.abs(place - other).max() > APART for other in others):
            drawn[name] = known[name]
    return drawn


def _no_slope_axis(axes: Axes, dataset: xr.Dataset) -> None:
    """One row per cell: without p there is no plane to draw."""
    margin = np.exp(LOG_AMPLIFICATION_MARGIN)
    axes.axvspan(1 / margin, margin, color=REGIONS["additive"][0], zorder=0)
    axes.set_yticks(range(dataset.sizes["cell"]), [str(cell) for cell in dataset["cell"].values])
    axes.set_ylim(dataset.sizes["cell"] - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_title("Amplification alone: p was not measured", loc="left")


def _regions(axes: Axes) -> None:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for name, (color, (x0, x1), (y0, y1)) in REGIONS.items():
        low, high = (left if x0 is None else np.exp(x0)), (right if x1 is None else np.exp(x1))
        floor, ceiling = (bottom if y0 is None else y0), (top if y1 is None else y1)
        axes.add_patch(
            Rectangle((low, floor), high - low, ceiling - floor, facecolor=color, edgecolor="none", zorder=0)
        )
        _region_name(axes, np.sqrt(low * high), top if y1 is None else bottom, name)
    _region_name(axes, np.sqrt(left * np.exp(LOG_AMPLIFICATION_MARGIN)), top, "claim rejected, no mechanism")


def _region_name(axes: Axes, x: float, edge: float, name: str) -> None:
    above = edge < 0
    axes.annotate(
        name, (x, edge), (0, 3 if above else -3), textcoords="offset points", ha="center",
        va="bottom" if above else "top", fontsize=7, fontweight="bold", color="#777777",
    )  # fmt: skip


def _cloud(axes: Axes, view: xr.Dataset, color: str, label: str) -> None:
    values = np.stack([view["log_amplification"].values, view["step_slope"].values])
    both = values[:, np.isfinite(values).all(axis=0)]
    axes.plot(np.exp(both[0]), both[1], ".", color=color, alpha=0.3, markersize=3)
    if both.shape[1] >= 4:
        outline = ellipse(both)
        axes.fill(np.exp(outline[0]), outline[1], facecolor=color, alpha=0.35, edgecolor=color, linewidth=1.2)
    amplification, slope = (each[np.isfinite(each)] for each in values)
    if amplification.size and slope.size:
        centre = np.exp(amplification.mean()), slope.mean()
        axes.plot(*centre, "o", color=color, markersize=4, label=label, markeredgecolor="white", markeredgewidth=0.5)


def ellipse(values: np.ndarray, confidence: float = 0.95, points: int = 90) -> np.ndarray:
    """Outline [2, point] of the confidence ellipse of the mean of `values` [2, sample].

    Hotelling's T squared; at least 4 samples. Degenerate spreads give a line or a point.
    """
    n = values.shape[1]
    radius = np.sqrt(2 * (n - 1) / (n - 2) * stats.f.ppf(confidence, 2, n - 2) / n)
    level, vectors = np.linalg.eigh(np.cov(values))
    angle = np.linspace(0, 2 * np.pi, points)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return values.mean(axis=1, keepdims=True) + radius * vectors @ (np.sqrt(np.maximum(level, 0))[:, None] * circle)


def _only_amplification(axes: Axes, view: xr.Dataset, row: int, color: str, label: str) -> None:
    low, middle, high = np.exp(view["intervals"].sel(quantity="log_amplification", confidence=0.95).values)
    values = np.exp(view["log_amplification"].values)
    axes.plot(values, row + np.linspace(-0.25, 0.25, values.size), ".", color=color, alpha=0.3, markersize=3)
    axes.plot([low, high], [row, row], color=color, linewidth=2)
    axes.plot(middle, row, "o", color=color, markersize=4, label=label)


def waterfall(axes: Axes, dataset: xr.Dataset, most: int = 4) -> None:
    """From the sum of |injected| to the actual error, as factors: carried, coherence, R and S (or A); bars.

    Heights are geometric means over samples relative to the additive null's sum, which is 1.
    """
    cells = sorted((str(cell) for cell in dataset["cell"].values), key=lambda name: name != dataset.attrs["primary"])
    with_impulses = bool(np.isfinite(dataset["S"].values).any())
    stages = ["injected_path", "null_path", "null_sum", *(["impulse_sum"] if with_impulses else []), "actual"]
    names = [
        "Σ |injected|",
        "carried to\nthe end",
        "coherence",
        *(["R"] if with_impulses else []),
        "S, or A\nwithout R" if with_impulses else "A",
    ]
    width = 0.8 / min(len(cells), most)
    axes.axhline(1, color=figures.NULL, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set_yscale("log")
    shown = []
    for index, cell in enumerate(cells[:most]):
        heights = np.array([_relative(dataset.sel(cell=cell), stage) for stage in stages])
        color = figures.colour(cell, [str(name) for name in dataset["cell"].values])
        place = np.arange(len(stages)) - 0.4 + width * (index + 0.5)
        axes.plot(place[0], heights[0], "_", color=color, markersize=12, markeredgewidth=2, label=cell)
        before = heights[0]
        for stage in range(1, len(stages)):
            after = heights[stage]
            if not np.isfinite([before, after]).all():
                continue
            low, high = sorted((before, after))
            alpha = 0.75 if after >= before else 0.4
            axes.bar(place[stage], high - low, width * 0.9, bottom=low, color=color, alpha=alpha)
            text, at = f"×{after / before:.2g}", (place[stage], high)
            axes.annotate(text, at, (0, 2), textcoords="offset points", ha="center", fontsize=6)
            before = after
        axes.plot(place[-1], heights[-1], "_", color="#222222", markersize=12, markeredgewidth=1.6)
        shown.append(heights[np.isfinite(heights)])
    every = np.concatenate([*shown, [0.7, 1.4]])
    axes.set_ylim(every.min() / 1.15, every.max() * 1.25)
    figures.log_axis(axes)
    axes.set_xticks(range(len(stages)), names)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("size relative to the additive null")
    axes.set_title("From injections to the error (black)", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), ncols=4, fontsize=6.5)


def _relative(view: xr.Dataset, stage: str) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(view[stage].values / view["null_sum"].values)
    ratio = ratio[np.isfinite(ratio)]
    return float(np.exp(ratio.mean())) if ratio.size else float("nan")
