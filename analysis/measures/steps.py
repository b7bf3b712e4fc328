"""Feedback and final error against the number of steps, dose by dose: does either grow as the grid gets finer?

More steps give a larger error in additive samplers too (docs/science.md, "The trap"), and a finer grid converges to the
masked process, so neither slope says whether an error is amplified on its way: that is `verdict`'s other question.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answer import words
from analysis.answer.margins import MARGIN, SATURATED, SLOPE_MARGIN
from analysis.answer.measured import measured
from analysis.answer.rule import step_slope
from analysis.common import nouns, pairing, runs, statistics
from analysis.common.pairing import Runs
from analysis.figures import style as figures
from analysis.measure import shipped

SUGGESTED = (50, 100, 250, 500, 1000)
FOLLOWED = {
    "feedback": ("log_feedback", "S", "p_S"),
    "error": ("error_spreads", "final error", "p_e"),
    "amplification": ("log_amplification", "A", "p_A"),
}
"""What is followed: name -> (column of `measured`, symbol, symbol of its slope)."""
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
"""Of the doses, the largest first."""


@shipped
def steps(several: Runs, *, kind: str | None = None) -> xr.Dataset:
    """Log S, log final error and log A over runs with different numbers of steps, and their slopes, per mask and dose.

    `log_feedback`, `log_error` (in spreads) and `log_amplification` (arm, sample, steps); `feedback_slope`,
    `error_slope` and `amplification_slope` (arm, sample) by least squares on the log of the number of steps, NaN where
    a number is missing; `*_interval` their means with 95% BCa limits over starts: (arm, steps, bound) and (arm,
    bound). Only samples that all runs share are used, so that a spread is of the same samples in each. What was not
    recorded is NaN. Coordinates of `arm`: `mask` and `dose`; `pair` and `start` say which sample it is; `kind` chooses
    the null of A. Raises RunError for fewer than two numbers of steps, runs that differ in more than steps and
    doses, or no shared arm or sample. Source: docs/science.md, "The rule and its margins".
    """
    trees = pairing.as_list(several)
    pairing.same_experiment(trees)
    everyone = {pair for run in trees for pair in pairing.identities(runs.complete(run))}
    shared = pairing.shared(trees)
    rows = measured(shared, kind)
    counts = sorted(int(count) for count in rows.index.unique("steps"))
    if len(counts) < 2:
        raise runs.RunError(too_few(counts))
    arms = {arm.name: arm for run in trees for arm in runs.arms(run) if arm.whole}
    names = [name for name in rows.index.unique("arm") if set(rows.loc[name].index.unique("steps")) == set(counts)]
    if not names:
        raise runs.RunError(pairing.NOTHING_SHARED)
    pairs = list(rows.loc[names].index.unique("pair"))
    start = rows["start"].groupby(level="pair").first().reindex(pairs)
    result = xr.Dataset(coords={"arm": names, "steps": counts, "pair": ("sample", pairs)})
    result = result.assign_coords(
        start=("sample", start.to_numpy(str)),
        mask=("arm", [arms[name].mask for name in names]),
        dose=("arm", [arms[name].strength for name in names]),
    )
    for name, (column, _, _) in FOLLOWED.items():
        values = _cube(rows[column], names, pairs, counts)
        logs = values if column.startswith("log_") else np.log(np.where(values > 0, values, np.nan))
        slope = step_slope(logs, counts)
        result[f"log_{name}"] = ("arm", "sample", "steps"), logs
        result[f"{name}_slope"] = ("arm", "sample"), slope
        whole = xr.DataArray(np.where(np.isnan(slope)[..., None], np.nan, logs), dims=("arm", "sample", "steps"))
        result[f"log_{name}_interval"] = _interval(whole, start)
        result[f"{name}_slope_interval"] = _interval(result[f"{name}_slope"].reset_coords(drop=True), start)
    result.attrs = {"title": title(trees[0]), "unpaired": len(everyone) - len(pairs)}
    return result


def _cube(column: pd.Series, names: list[str], pairs: list[str], counts: list[int]) -> np.ndarray:
    """A column of `measured` as an array [arm, sample, steps]."""
    index = pd.MultiIndex.from_product([names, pairs, counts], names=["arm", "pair", "steps"])
    ordered = column.reorder_levels(["arm", "pair", "steps"]).reindex(index)
    return ordered.to_numpy(float).reshape(len(names), len(pairs), len(counts))


def _interval(values: xr.DataArray, start: pd.Series) -> xr.DataArray:
    """Mean over starts of the means over their paths, with 95% BCa limits: (..., bound)."""
    grouped = values.groupby(xr.DataArray(start.to_numpy(str), dims="sample", name="start")).mean(skipna=True)
    found = statistics.intervals(grouped, dim="start", confidence=(0.95,)).squeeze("confidence", drop=True)
    return found.drop_vars([name for name in found.coords if name != "bound"])


def title(run: xr.DataTree) -> str:
    """Model, sampler and guidance of a run: what a study of the number of steps holds fixed."""
    config = runs.configuration(run)
    guidance = config.get("guidance")
    told = [str(config.get("model", "model")), runs.sampler_name(config)]
    return ", ".join(told + ([f"guidance {guidance:g}"] if isinstance(guidance, int | float) else []))


def too_few(counts: list[int]) -> str:
    """What to say when the number of steps was not varied, with what to type."""
    others = " ".join(str(count) for count in SUGGESTED if count not in counts)
    return (
        f"slopes need runs that differ in their number of steps, and there is only {counts}: `trace counterfactual "
        f"steps`, or repeat the run with the same arms and seed and `--steps N --record verdict` for N in {others}, "
        "then `trace analyze steps RUN RUN ...`"
    )


# --- presentation ---


@steps.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per intervention, dose and number of steps: S, final error and A with intervals, and the slopes."""
    rows, called = [], nouns.wording(dataset).noun
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        for count in dataset["steps"].values:
            row: dict[str, object] = {called: at["mask"].item(), "dose": float(at["dose"]), "steps": int(count)}
            for name, (_, symbol, _) in FOLLOWED.items():
                low, middle, high = _bounds(at[f"log_{name}_interval"].sel(steps=count), np.exp)
                row |= {symbol: middle, f"{symbol} low": low, f"{symbol} high": high}
            for name, (_, _, symbol) in FOLLOWED.items():
                low, middle, high = _bounds(at[f"{name}_slope_interval"])
                row |= {symbol: middle, f"{symbol} low": low, f"{symbol} high": high}
            rows.append(row | {"samples": int(at["error_slope"].notnull().sum())})
    return pd.DataFrame(rows)


@steps.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The slopes of every intervention and dose with their intervals, and what they do not say."""
    counts = dataset["steps"].values
    parts = []
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        clauses = []
        for name, (_, symbol, slope) in FOLLOWED.items():
            middle = at[f"log_{name}_interval"].sel(bound="estimate").values
            if np.isfinite(middle).all():
                first, last = (words.number(float(np.exp(value))) for value in middle[[0, -1]])
                low, value, high = _bounds(at[f"{name}_slope_interval"])
                limits = f" [{words.number(low)}, {words.number(high)}]" if np.isfinite(low) else ""
                clauses.append(f"{symbol} {first} to {last}, {slope} = {words.number(value)}{limits}")
        told = "; ".join(clauses) or "nothing measured at every number of steps"
        parts.append(f"{words.named(at)}: {told} (n = {int(at['error_slope'].notnull().sum())}).")
    unpaired = dataset.attrs["unpaired"]
    rest = f" {unpaired} samples are not in every run and are left out." if unpaired else ""
    return (
        f"{dataset.attrs['title']}, {counts[0]} to {counts[-1]} steps ({len(counts)} numbers). {' '.join(parts)}{rest} "
        "A flat slope does not say that the trajectory amplifies nothing: `trace analyze verdict` answers that."
    )


@steps.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """S and final error against the number of steps, doses as line styles, and the slopes of both."""
    name = "feedback" if np.isfinite(dataset["log_feedback_interval"]).any() else "amplification"
    canvas, ((left, middle, right),) = figures.panels(1, 3, width=9.4, height=3.3, width_ratios=(1.2, 1.2, 1))
    left.axhspan(1 / MARGIN, MARGIN, color="#ececec", zorder=0)
    left.axhline(1, color=figures.NULL, linewidth=0.7)
    _follow(left, dataset, name)
    left.set_ylabel("feedback S" if name == "feedback" else "amplification A over the additive null")
    left.set_title("Feedback" if name == "feedback" else "Error over its additive null", loc="left")
    for height, text in ((np.sqrt(2), "two unrelated pictures"), (SATURATED, "half of that")):
        middle.axhline(height, color=figures.NULL, linewidth=0.8, linestyle=(0, (4, 2)))
        place = middle.get_yaxis_transform()
        middle.text(0.99, height, text, transform=place, fontsize=6, color="#666666", ha="right", va="bottom")
    _follow(middle, dataset, "error")
    middle.set_ylabel("final error in spreads")
    middle.set_title("Final error", loc="left")
    _slopes(right, dataset, name)
    figures.letters(np.array([left, middle, right]))
    _legend(left, dataset)
    note = (
        "Lines: geometric means over starts with 95% bands; thin lines: samples. Grey: within the margins. Circles in "
        f"c: slope of {FOLLOWED[name][1]}; diamonds: slope of the final error; bars: 95% intervals."
    )
    heading = f"{dataset.attrs['title']} · {dataset.sizes['sample']} paired samples"
    figures.legend_above(canvas, left, heading=heading, note=note)
    return canvas


def _follow(axes: Axes, dataset: xr.Dataset, name: str) -> None:
    """One quantity over the number of steps, a line per intervention and dose."""
    axes.set_yscale("log")  # before anything is drawn, so that the limits are found in logs
    counts = dataset["steps"].values.astype(float)
    for arm in dataset["arm"].values:
        at, (color, line) = dataset.sel(arm=arm), _look(dataset, str(arm))
        each = np.exp(at[f"log_{name}"].transpose("steps", "sample").values)
        axes.plot(counts, each, color=color, alpha=0.1, linewidth=0.5)
        low, middle, high = (np.exp(bound.values) for bound in runs.bounds(at[f"log_{name}_interval"]))
        if np.isfinite(middle).any():
            figures.band(
                axes, counts, low, middle, high, color=color, label="_", marker="o", markersize=3, linestyle=line
            )
    axes.set_xscale("log")
    for which in ("x", "y"):
        figures.log_axis(axes, which)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.set_xlabel("number of steps N")


def _slopes(axes: Axes, dataset: xr.Dataset, name: str) -> None:
    axes.axvspan(-SLOPE_MARGIN, SLOPE_MARGIN, color="#ececec", zorder=0)
    axes.axvline(0, color=figures.NULL, linewidth=0.7)
    arms = [str(arm) for arm in dataset["arm"].values]
    for row, arm in enumerate(arms):
        at, (color, _) = dataset.sel(arm=arm), _look(dataset, arm)
        for shift, which, marker in ((-0.14, name, "o"), (0.14, "error", "D")):
            low, slope, high = _bounds(at[f"{which}_slope_interval"])
            axes.plot([low, high], [row + shift, row + shift], color=color, linewidth=1.6)
            axes.plot(slope, row + shift, marker, color=color, markersize=4.5)
    axes.set_yticks(range(len(arms)), [words.named(dataset.sel(arm=arm)) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    axes.set_xlabel("slope on log N")
    axes.set_title("Slopes", loc="left")


def _look(dataset: xr.Dataset, arm: str) -> tuple[str, object]:
    """Colour (the intervention's) and line style (the dose's)."""
    masks = list(dict.fromkeys(str(mask) for mask in dataset["mask"].values))
    doses = sorted({float(dose) for dose in dataset["dose"].values}, reverse=True)
    at = dataset.sel(arm=arm)
    return figures.colour(str(at["mask"].item()), masks), LINES[doses.index(float(at["dose"])) % len(LINES)]


def _legend(axes: Axes, dataset: xr.Dataset) -> None:
    for arm in dataset["arm"].values:
        color, line = _look(dataset, str(arm))
        label = words.named(dataset.sel(arm=arm))
        axes.add_line(Line2D([], [], color=color, linestyle=line, label=label))  # type: ignore[arg-type]


def _bounds(interval: xr.DataArray, scale=lambda value: value) -> tuple[float, float, float]:
    low, middle, high = (float(scale(bound)) for bound in runs.bounds(interval))
    return low, middle, high
