"""Amplification against the number of steps: the study that tells compounding from mere accumulation.

More steps give a larger error in additive samplers too (docs/science.md, "The trap"), so what is followed is A, the
error over its own additive null, recomputed at every number of steps and paired by sample. `verdict` judges the slope.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import amplification as amp
from analysis.answer.null import KIND_OPTION
from analysis.answer.references import AMPLIFICATION
from analysis.answer.rule import LOG_AMPLIFICATION_MARGIN, SLOPE_MARGIN, step_slope
from analysis.common import pairing, runs, statistics
from analysis.common.pairing import Runs
from analysis.figures import style as figures
from analysis.measure import measure

SUGGESTED = (50, 100, 250, 500, 1000)


@measure(
    question="Does the amplification grow with the number of steps?",
    reads="runs",
    needs=("decomposition", "null"),
    options=(KIND_OPTION,),
)
def steps(several: Runs, *, kind: str | None = None) -> xr.Dataset:
    """log A (arm, sample, steps) over runs with different numbers of steps, and its slope p (arm, sample).

    Only arms and samples that all runs share are used, a sample only where A could be measured at every count.
    `log_amplification_interval` (arm, steps, bound) is the 95% BCa interval of mean log A, `step_slope_interval` (arm,
    bound) that of p;
    `pair` says which sample it is; `kind` chooses the null (see `amplification`). Raises runs.RunError for fewer than
    two counts, runs that differ in anything but the number of steps, or no shared arm or sample. Source:
    docs/science.md, "The additive null".
    """
    study = measured(several, kind)
    counts = study["steps"].values.tolist()
    if len(counts) < 2:
        raise runs.RunError(too_few(counts, "steps"))
    log_a = study["log_amplification"].transpose("arm", "sample", "steps")
    study["step_slope"] = ("arm", "sample"), step_slope(log_a.values, counts)
    for name, values in (("log_amplification", _at_every_count(study)), ("step_slope", study["step_slope"])):
        interval = statistics.intervals(values, confidence=(0.95,)).squeeze("confidence", drop=True)
        study[f"{name}_interval"] = interval
    return study


def measured(several: Runs, kind: str | None = None, *, join: Literal["inner", "outer"] = "inner") -> xr.Dataset:
    """Amplification of one or several runs side by side: (arm, sample, steps), by shared arm and sample.

    `join` "inner" estimates everything from the shared samples alone (a Gaussian null's spectrum too); "outer" keeps
    those that only some runs have, NaN elsewhere. attrs["unpaired"] counts those.
    """
    trees = pairing.as_list(several)
    pairing.same_experiment(trees)
    everyone = list(dict.fromkeys(pair for run in trees for pair in pairing.identities(runs.complete(run))))
    parts = [amp.amplification(run, kind) for run in (pairing.shared(trees) if join == "inner" else trees)]
    counts = [part.attrs["steps"] for part in parts]
    if len(set(counts)) < len(counts):
        raise runs.RunError(f"two of these runs have the same number of steps ({counts}): give one run per number")
    unneeded = ["sample", "kept", *runs.arm_coordinates(trees[0])]
    parts = [part.swap_dims(sample="pair").drop_vars(unneeded, errors="ignore") for part in parts]
    arms = set.intersection(*(set(part["arm"].values.tolist()) for part in parts))
    parts = [part.sel(arm=[arm for arm in part["arm"].values if arm in arms]) for part in parts]
    shared = set.intersection(*(set(part["pair"].values.tolist()) for part in parts))
    joined = xr.concat(parts, dim=pd.Index(counts, name="steps"), join=join, combine_attrs="drop").sortby("steps")
    if not arms or not shared:
        raise runs.RunError(pairing.NOTHING_SHARED)
    joined = joined.sel(pair=[pair for pair in everyone if join == "outer" or pair in shared])
    joined = joined.swap_dims(pair="sample").transpose("arm", "sample", "steps", ...)
    joined = runs.with_arms(joined, trees[0], windows=False)
    joined.attrs = {"title": title(trees[0]), "unpaired": len(everyone) - len(shared)}
    return joined


def title(run: xr.DataTree) -> str:
    """Model, sampler and guidance of a run: what a study of the number of steps holds fixed."""
    config = runs.configuration(run)
    guidance = config.get("guidance")
    words = [str(config.get("model", "model")), str(config["sampler"]).upper()]
    return ", ".join(words + ([f"guidance {guidance:g}"] if isinstance(guidance, int | float) else []))


def too_few(counts: list[int], name: str) -> str:
    """What to say when the number of steps was not varied, with what to type."""
    others = " ".join(str(count) for count in SUGGESTED if count not in counts)
    return (
        f"the slope p needs runs that differ in their number of steps, and there is only {counts}: repeat the run with "
        f"the same masks and seed and `--steps N --record {amp.RECORD}` for N in {others}, then "
        f"`trace analyze {name} RUN RUN ...`"
    )


def _at_every_count(study: xr.Dataset) -> xr.DataArray:
    """log A where every count was measured, else NaN: (arm, sample, steps)."""
    values = study["log_amplification"]
    return values.where(values.notnull().all("steps"))


@steps.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and number of steps: geometric and RMS mean of A with its interval, coherence, samples."""
    rows = []
    log_a = _at_every_count(dataset)
    for arm in dataset["arm"].values:
        low, slope, high = (bound.item() for bound in runs.bounds(dataset["step_slope_interval"].sel(arm=arm)))
        for count in dataset["steps"].values:
            at = log_a.sel(arm=arm, steps=count).dropna("sample").values
            interval = dataset["log_amplification_interval"].sel(arm=arm, steps=count)
            a_low, a, a_high = (np.exp(bound.values) for bound in runs.bounds(interval))
            row = {"arm": str(arm), "steps": int(count), "A": a, "A low": a_low, "A high": a_high}
            row["A RMS"] = float(np.sqrt(np.exp(2 * at).mean())) if at.size else np.nan
            row["coherence"] = float(dataset["coherence"].sel(arm=arm, steps=count).median())
            rows.append(row | {"samples": at.size, "p": slope, "p low": low, "p high": high})
    return pd.DataFrame(rows)


@steps.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The slope of every arm with its interval, and what it takes to read it."""
    counts = dataset["steps"].values
    parts = []
    for arm in dataset["arm"].values:
        low, slope, high = (bound.item() for bound in runs.bounds(dataset["step_slope_interval"].sel(arm=arm)))
        first, last = np.exp(runs.bounds(dataset["log_amplification_interval"].sel(arm=arm))[1].values[[0, -1]])
        samples = int(dataset["step_slope"].sel(arm=arm).notnull().sum())
        limits = f"95% CI {low:.3g} to {high:.3g}, " if np.isfinite(low) else "too few samples for an interval, "
        parts.append(f"{arm}: A {first:.3g} to {last:.3g}, p = {slope:.3g} ({limits}n = {samples})")
    return (
        f"Amplification over its additive null from {counts[0]} to {counts[-1]} steps ({len(counts)} counts). "
        f"{'; '.join(parts)}. Compounding would need p above {SLOPE_MARGIN:g}; `trace analyze verdict` decides."
    )


@steps.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """log A against log N, samples thin, with the reference slopes of known systems."""
    arms = [str(arm) for arm in dataset["arm"].values]
    counts = dataset["steps"].values.astype(float)
    canvas, ((axes, beside),) = figures.panels(1, 2, width=7.2, height=3.1, width_ratios=(3, 1.3))
    margin = np.exp(LOG_AMPLIFICATION_MARGIN)
    axes.set_yscale("log")  # before anything is drawn, so that the limits are found in logs
    axes.axhspan(1 / margin, margin, color="#eeeeee", zorder=0)
    for arm in arms:
        color = figures.colour(arm, arms)
        axes.plot(
            counts, np.exp(_at_every_count(dataset).sel(arm=arm).values.T), color=color, alpha=0.12, linewidth=0.5
        )
        interval = runs.bounds(dataset["log_amplification_interval"].sel(arm=arm))
        low, middle, high = (np.exp(bound.values) for bound in interval)
        figures.band(axes, counts, low, middle, high, color=color, label=arm, marker="o", markersize=3)
    bottom, top = axes.get_ylim()
    _references(axes, counts, (min(bottom, 0.4), max(top, 2.5)))
    for which in ("x", "y"):
        figures.log_axis(axes, which)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.set_xlabel("number of steps N")
    axes.set_ylabel("amplification A")
    axes.set_title("Error over its additive null", loc="left")
    axes.legend(loc="upper left")
    _slopes(beside, dataset, arms)
    figures.letters(np.array([axes, beside]))
    canvas.suptitle(
        f"{dataset.attrs['title']} · {dataset.sizes['sample']} paired samples", fontsize=8.5, x=0.01, ha="left"
    )
    return canvas


def _references(axes: Axes, counts: np.ndarray, limits: tuple[float, float]) -> None:
    """What known systems draw."""
    dense = np.geomspace(counts[0], counts[-1], 60)
    axes.set_ylim(*limits)
    axes.set_xlim(counts[0] * 0.93, counts[-1] * 1.45)
    for name in ("gain 1.01 per step", "gain exp(2/N)", "additive", "gain 0.98 per step"):
        values = AMPLIFICATION[name](dense)
        axes.plot(dense, values, color=figures.NULL, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        inside = np.flatnonzero((values >= limits[0]) & (values <= limits[1]))
        if inside.size:
            place = (dense[inside[-1]], values[inside[-1]])
            axes.annotate(name, place, (3, 0), textcoords="offset points", fontsize=6, color="#666666", va="center")


def _slopes(axes: Axes, dataset: xr.Dataset, arms: list[str]) -> None:
    axes.axvspan(-SLOPE_MARGIN, SLOPE_MARGIN, color="#eeeeee", zorder=0)
    axes.axvline(0, color=figures.NULL, linewidth=0.8)
    for row, arm in enumerate(arms):
        low, slope, high = (bound.item() for bound in runs.bounds(dataset["step_slope_interval"].sel(arm=arm)))
        values, color = dataset["step_slope"].sel(arm=arm).values, figures.colour(arm, arms)
        jitter = np.linspace(-0.25, 0.25, values.size)
        axes.plot(values, row + jitter, ".", color=color, alpha=0.25, markersize=3)
        axes.plot([low, high], [row, row], color=color, linewidth=2)
        axes.plot(slope, row, "o", color=color, markersize=5)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("slope p of log A on log N")
    axes.set_title("Slope per sample", loc="left")
