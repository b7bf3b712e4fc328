"""Whether the clean step enlarges the error it is handed, step by step, and how that depends on the unit.

Li and van der Schaar (arXiv 2308.05021) write the cumulative error of a step as mu times that before plus the modular
one, and argue for mu >= 1. This is the pathwise analogue, in three units, beside that of a Gaussian system in which
errors only add. A factor above 1 is no amplification by itself: docs/science.md, "The trap".
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.answer import null
from analysis.common import pairing, runs
from analysis.common.resampling import resample
from analysis.common.statistics import BOUNDS
from analysis.figures import style as figures
from analysis.measure import shipped

UNITS = {"state": "the state's own", "noise": "noise of the level", "signal": "signal of the level"}
MOST_ARMS = 4  # drawn


@shipped
def factors(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """mu_k = mean |F(y) - F(x)|^2 / mean |y - x|^2 of every step, means over starts, for every intervened arm.

    `mu` (unit, arm, step, bound): BCa limits at `confidence` for all steps of an arm together (Bonferroni). `unit`:
    "state"; "noise", squares over sigma^2 of the level, as the KL divergence of two Gaussians with the noise of the
    level has them; "signal", over alpha^2. `gaussian` (unit, arm, step): the same of Gaussian data of the clean
    states' spectrum handed the very same errors, where nothing is amplified. NaN at steps before there is an error,
    and in the unit of the noise at the last step, which leaves none.
    Raises RunError without the records latents and decomposition.
    """
    run = runs.complete(run)
    runs.need(run, "metrics/propagated_l2", "decomposition")
    names, start = runs.names(run), pairing.identities(run, paths=False)
    if not names:
        raise runs.RunError("this run has no intervened arm: add one with `trace run ... --mask R4S32`")
    metrics = run["metrics"].to_dataset().sel(arm=names)
    before = runs.plain(metrics["delta_l2"]).shift(step=1, fill_value=0.0) ** 2
    energies = xr.Dataset({
        "before": before,
        "after": runs.plain(metrics["propagated_l2"]) ** 2,
        "gaussian": (null.null_gain(run).sel(arm=names).reset_coords(drop=True) ** 2).fillna(0.0) * before,
    }).compute()  # fmt: skip
    of_start = energies.groupby(xr.DataArray(start, dims="sample", name="start")).mean(skipna=False)
    unit = _units(run)
    total = of_start["before"].mean("start", skipna=False)
    gaussian = of_start["gaussian"].mean("start", skipna=False) / total.where(total > 0)
    result = xr.Dataset({"mu": _limits(of_start, confidence, seed) * unit, "gaussian": gaussian * unit})
    result = runs.with_arms(result.transpose("unit", "arm", "step", ...), run)
    result.attrs = {"title": runs.title(run), "samples": len(start), "confidence": confidence}
    return result


def _units(run: xr.DataTree) -> xr.DataArray:
    """What a ratio of squares is multiplied by in each unit, (unit, step)."""
    alpha, sigma, alpha_after, sigma_after = runs.levels(run)
    each = [xr.ones_like(alpha), (sigma / sigma_after.where(sigma_after > 0)) ** 2, (alpha / alpha_after) ** 2]
    return xr.concat(each, dim=pd.Index(list(UNITS), name="unit"))


def _limits(of_start: xr.Dataset, confidence: float, seed: int) -> xr.DataArray:
    """Ratio of sums over starts with its limits, for all steps together: (arm, step, bound)."""
    steps = of_start.sizes["step"]
    level = 1 - (1 - confidence) / steps

    def limits(after: np.ndarray, before: np.ndarray) -> np.ndarray:
        if not (before > 0).any():
            return np.full(3, np.nan)
        found = resample(lambda index: after[index].sum(-1) / before[index].sum(-1), len(before), seed=seed)
        return np.insert(found.interval(level), 1, found.estimate)

    arrays = (of_start[name].transpose("arm", "step", "start") for name in ("after", "before"))
    found = xr.apply_ufunc(
        limits, *arrays, input_core_dims=[["start"]] * 2, output_core_dims=[["bound"]], vectorize=True
    )
    return found.assign_coords(bound=list(BOUNDS))


# --- presentation ---


@factors.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and unit: how many steps have mu >= 1, how many are below 1 by their whole interval."""
    rows = []
    for arm in dataset["arm"].values:
        for unit in dataset["unit"].values:
            at = dataset.sel(arm=arm, unit=unit)
            _, middle, high = (bound.values for bound in runs.bounds(at["mu"]))
            told = np.isfinite(middle)
            least = int(np.argmin(np.where(told, middle, np.inf)))
            below, above = int((high[told] < 1).sum()), int((middle[told] >= 1).sum())
            row = {"arm": str(arm), "unit": str(unit), "steps": int(told.sum()), "mu >= 1": above, "below 1": below}
            row |= {"least mu": middle[least] if told.any() else np.nan, "at step": least if told.any() else -1}
            row |= {"gaussian mu >= 1": int((at["gaussian"].values[told] >= 1).sum())}
            rows.append(row | {"mu >= 1 at every step": _answer(int(told.sum()), above, below)})
    return pd.DataFrame(rows)


def _answer(steps: int, above: int, below: int) -> str:
    if below:
        return "refuted"
    return "holds" if steps and above == steps else "undecided"


@factors.presents("records")
def records(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm, unit and step: mu with its limits, and that of the Gaussian system."""
    wide = dataset["mu"].to_dataset("bound").assign(gaussian=dataset["gaussian"]).reset_coords(drop=True)
    frame = wide.to_dataframe().reset_index()
    return frame[["arm", "unit", "step", *BOUNDS, "gaussian"]]


@factors.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """In how many steps mu is at least 1, unit by unit, and in how many the Gaussian system's."""
    told, rest = runs.to_tell(dataset)
    lines = table(dataset).set_index(["arm", "unit"])
    texts = []
    for arm in told:
        clauses = []
        for unit in UNITS:
            row = lines.loc[(arm, unit)]
            clauses.append(
                f"in units of {UNITS[unit]} {row['mu >= 1']} of {row['steps']} (below 1 by the interval: "
                f"{row['below 1']}; additive Gaussian system: {row['gaussian mu >= 1']})"
            )
        texts.append(f"{arm}: {', '.join(clauses)}")
    return (
        f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. Steps whose factor mu on the error's energy is "
        f"at least 1: {'; '.join(texts)}{rest}. Where the additive system has mu >= 1, too, it shows no amplification."
    )


@factors.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """mu per step in every unit, with the Gaussian system's dashed."""
    canvas, axes = figures.panels(1, len(UNITS), width=7.6, height=2.7)
    arms = runs.to_draw(dataset, MOST_ARMS)
    every = figures.palette(dataset)
    for ax, unit in zip(axes[0], UNITS, strict=True):
        ax.set_yscale("log")
        ax.axhline(1, color=figures.NULL, linewidth=0.7)
        for arm in arms:
            at, look = dataset.sel(arm=arm, unit=unit), figures.colour(arm, every)
            low, middle, high = (bound.values for bound in runs.bounds(at["mu"]))
            figures.band(ax, dataset["step"].values, low, middle, high, color=look, label=arm)
            ax.plot(dataset["step"].values, at["gaussian"].values, color=look, linewidth=0.9, linestyle=figures.DASHES)
        figures.progress_axis(ax, dataset.sizes["step"])
        ax.set_title(f"Unit: {unit}", loc="left")
        figures.log_axis(ax)
    axes[0, 0].set_ylabel("mu, factor on |y − x|²")
    figures.letters(axes)
    note = (
        f"Bands: {dataset.attrs['confidence']:.0%} for all steps together. Dashed: the same errors in Gaussian data, "
    )
    note += "where they only add." + figures.left_out(dataset.sizes["arm"], len(arms))
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note)
    return canvas
