"""Amplification against the number of steps: the study that tells compounding from mere accumulation.

More steps give a larger error in additive samplers too (SCIENCE section 0), so what is followed is A, the error over
its own additive null, recomputed at every number of steps and paired by sample. `verdict` judges the slope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.answer import amplification as amp
from analysis.answer.rule import LOG_AMPLIFICATION_MARGIN, SLOPE_MARGIN, step_slope
from analysis.common import runs, statistics
from analysis.figures import style as figures

Runs = xr.DataTree | Iterable[xr.DataTree] | Mapping[object, xr.DataTree]
SUGGESTED = (50, 100, 250, 500, 1000)


def steps(several: Runs, *, kind: str | None = None) -> xr.Dataset:
    """log A (arm, sample, steps) over runs with different numbers of steps, and its slope p (arm, sample).

    Only arms and samples that all runs share are used, a sample only where A could be measured at every count.
    `interval` (arm, steps, bound) is the 95% BCa interval of mean log A, `slope_interval` (arm, bound) that of p;
    `pair` says which sample it is; `kind` chooses the null (see `amplification`). Raises runs.RunError for fewer than
    two counts, runs that differ in anything but the number of steps, or no shared arm or sample. Source: SCIENCE
    section 4.
    """
    found = measured(several, kind)
    if found.sizes["steps"] < 2:
        raise runs.RunError(too_few(found["steps"].values.tolist(), "steps"))
    slope = step_slope(
        found["log_amplification"].transpose("arm", "sample", "steps").values, found["steps"].values.tolist()
    )
    found["step_slope"] = ("arm", "sample"), slope
    for name, values in (("interval", _whole(found)), ("slope_interval", found["step_slope"])):
        found[name] = statistics.intervals(values, confidence=(0.95,)).squeeze("confidence", drop=True)
    return found


def measured(several: Runs, kind: str | None = None, *, join: Literal["inner", "outer"] = "inner") -> xr.Dataset:
    """Amplification of one or several runs side by side: (arm, sample, steps), by shared arm and sample.

    `join` "inner" estimates everything from the shared samples alone (a Gaussian null's spectrum too); "outer" keeps
    those that only some runs have, NaN elsewhere. attrs["unpaired"] counts those.
    """
    trees = amp.as_list(several)
    amp.same_experiment(trees)
    everyone = list(dict.fromkeys(pair for run in trees for pair in amp.identities(runs.complete(run))))
    parts = [amp.amplification(run, kind) for run in (amp.shared(trees) if join == "inner" else trees)]
    counts = [part.attrs["steps"] for part in parts]
    if len(set(counts)) < len(counts):
        raise runs.RunError(f"two of these runs have the same number of steps ({counts}): give one run per number")
    parts = [part.swap_dims(sample="pair").drop_vars(["sample", "kept"], errors="ignore") for part in parts]
    arms = set.intersection(*(set(part["arm"].values.tolist()) for part in parts))
    parts = [part.sel(arm=[arm for arm in part["arm"].values if arm in arms]) for part in parts]
    shared = set.intersection(*(set(part["pair"].values.tolist()) for part in parts))
    joined = xr.concat(parts, dim=pd.Index(counts, name="steps"), join=join, combine_attrs="drop").sortby("steps")
    if not arms or not shared:
        raise runs.RunError(amp.NOTHING_SHARED)
    joined = joined.sel(pair=[pair for pair in everyone if join == "outer" or pair in shared])
    joined = joined.swap_dims(pair="sample").transpose("arm", "sample", "steps", ...)
    joined.attrs = {
        "title": title(trees[0]),
        "unpaired": len(everyone) - len(shared),
    }
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


def _whole(found: xr.Dataset) -> xr.DataArray:
    """log A where every count was measured, else NaN: (arm, sample, steps)."""
    values = found["log_amplification"]
    return values.where(values.notnull().all("steps"))


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and number of steps: geometric and RMS mean of A with its interval, coherence, samples."""
    rows = []
    whole = _whole(dataset)
    for arm in dataset["arm"].values:
        low, slope, high = dataset["slope_interval"].sel(arm=arm, bound=["low", "estimate", "high"]).values
        for count in dataset["steps"].values:
            at = whole.sel(arm=arm, steps=count).dropna("sample").values
            bounds = np.exp(dataset["interval"].sel(arm=arm, steps=count, bound=["low", "estimate", "high"]).values)
            row = {"arm": str(arm), "steps": int(count), "A": bounds[1], "A low": bounds[0], "A high": bounds[2]}
            row["A RMS"] = float(np.sqrt(np.exp(2 * at).mean())) if at.size else np.nan
            row["coherence"] = float(dataset["coherence"].sel(arm=arm, steps=count).median())
            rows.append(row | {"samples": at.size, "p": slope, "p low": low, "p high": high})
    return pd.DataFrame(rows)


def sentence(dataset: xr.Dataset) -> str:
    """The slope of every arm with its interval, and what it takes to read it."""
    counts = dataset["steps"].values
    parts = []
    for arm in dataset["arm"].values:
        low, slope, high = dataset["slope_interval"].sel(arm=arm, bound=["low", "estimate", "high"]).values
        first, last = np.exp(dataset["interval"].sel(arm=arm, bound="estimate").values[[0, -1]])
        samples = int(dataset["step_slope"].sel(arm=arm).notnull().sum())
        limits = f"95% CI {low:.3g} to {high:.3g}, " if np.isfinite(low) else "too few samples for an interval, "
        parts.append(f"{arm}: A {first:.3g} to {last:.3g}, p = {slope:.3g} ({limits}n = {samples})")
    return (
        f"Amplification over its additive null from {counts[0]} to {counts[-1]} steps ({len(counts)} counts). "
        f"{'; '.join(parts)}. Compounding would need p above {SLOPE_MARGIN:g}; `trace analyze verdict` decides."
    )


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """SCIENCE figure 5: log A against log N, samples thin, with the reference slopes of known systems."""
    arms = [str(arm) for arm in dataset["arm"].values]
    counts = dataset["steps"].values.astype(float)
    canvas, ((axes, beside),) = figures.panels(1, 2, width=7.2, height=3.1, width_ratios=(3, 1.3))
    margin = np.exp(LOG_AMPLIFICATION_MARGIN)
    axes.set_yscale("log")  # before anything is drawn, so that the limits are found in logs
    axes.axhspan(1 / margin, margin, color="#eeeeee", zorder=0)
    for arm in arms:
        view, color = xr.DataArray(np.exp(dataset["interval"].sel(arm=arm))), figures.colour(arm, arms)
        axes.plot(counts, np.exp(_whole(dataset).sel(arm=arm).values.T), color=color, alpha=0.12, linewidth=0.5)
        low, middle, high = (view.sel(bound=bound).values for bound in ("low", "estimate", "high"))
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


def _references(axes, counts: np.ndarray, limits: tuple[float, float]) -> None:
    """Gain 1.01 and 0.98 per step, gain exp(2/N), and additive: what known systems draw."""
    dense = np.geomspace(counts[0], counts[-1], 60)
    curves = {
        "gain 1.01 per step": (1.01**dense - 1) / (0.01 * dense),
        "gain exp(2/N)": np.full_like(dense, (np.exp(2) - 1) / 2),
        "additive": np.ones_like(dense),
        "gain 0.98 per step": (1 - 0.98**dense) / (0.02 * dense),
    }
    axes.set_ylim(*limits)
    axes.set_xlim(counts[0] * 0.93, counts[-1] * 1.45)
    for name, values in curves.items():
        axes.plot(dense, values, color=figures.NULL, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        inside = np.flatnonzero((values >= limits[0]) & (values <= limits[1]))
        if inside.size:
            place = (dense[inside[-1]], values[inside[-1]])
            axes.annotate(name, place, (3, 0), textcoords="offset points", fontsize=6, color="#666666", va="center")


def _slopes(axes, dataset: xr.Dataset, arms: list[str]) -> None:
    axes.axvspan(-SLOPE_MARGIN, SLOPE_MARGIN, color="#eeeeee", zorder=0)
    axes.axvline(0, color=figures.NULL, linewidth=0.8)
    for row, arm in enumerate(arms):
        low, slope, high = dataset["slope_interval"].sel(arm=arm, bound=["low", "estimate", "high"]).values
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
