"""One injection, fresh noise: does it end, on average, where its null says, and how much of its energy is scatter?

Each run acts on one step k alone and lets every path of a start go on with noise of its own after it. The mean over
paths is compared with d_k, the shift of the prediction that it made; energies are split by off-diagonal sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import words
from analysis.answer.measured import off_diagonal
from analysis.common import nouns, pairing, runs, spectrum, statistics
from analysis.common.resampling import resample
from analysis.figures import style as figures
from analysis.measure import shipped

ENERGIES = ("systematic", "total", "departure")
QUANTITIES = {
    "slope": "slope of the mean difference on d",
    "systematic": "systematic energy / |d|²",
    "total": "energy of single paths / |d|²",
    "departure": "energy of mean − d / |d|²",
    "share": "systematic share of the energy",
}


@shipped
def renoise(several: pairing.Runs, *, seed: int = 0) -> xr.Dataset:
    """Mean and scatter of single injections under fresh noise, per mask, step of the injection and start.

    `several`: runs of `trace counterfactual renoise`, whose arms act on one step k alone and whose paths share all
    noise up to it. With delta the final difference of a path and d = d_k, per (mask, step, start): `slope` = <mean of
    delta, d> / |d|^2; over |d|^2, `systematic` = the off-diagonal mean of <delta_i, delta_j>, which is |E delta|^2
    without bias, `total` the mean of |delta|^2, and `departure` the off-diagonal mean of delta - d, 0 where the clean
    network is a posterior mean; `paths` how many. `*_interval` (mask, step, bound) pool starts by |d|^2, with 95% BCa
    limits over them; `share_interval` is that of systematic over total, and `all_*_interval` (mask, bound) pool the
    steps too, a start with all its steps being one unit. A mask at a dose is a mask of its own. Raises RunError where
    no arm acts on one step alone, there is one path a start, or errors and null were not recorded.
    Source: docs/science.md, "Propagation: the own-path sum".
    """
    trees = [runs.complete(run) for run in pairing.as_list(several)]
    pairing.same_experiment(trees)
    parts = [part for run in trees for arm in runs.arms(run) if len(arm.window) == 1 for part in _of_arm(run, arm)]
    if not parts:
        raise runs.RunError(
            "no start has several paths that fork after one step alone: make such runs with `trace counterfactual "
            "renoise --mask R4S32`"
        )
    rows = pd.DataFrame(parts).set_index(["mask", "step", "start"])
    if rows.index.has_duplicates:
        rows = rows[~rows.index.duplicated()]
    result = xr.Dataset.from_dataframe(rows)
    masks = list(dict.fromkeys(part["mask"] for part in parts))
    result = result.sel(mask=masks, start=list(dict.fromkeys(part["start"] for part in parts)))
    for name in ENERGIES:
        result[name] = result[f"{name}_energy"] / result["d_energy"]
    result["slope"] = result["along"] / result["d_energy"]
    for name, (top, bottom) in _pooled().items():
        result[f"{name}_interval"] = _interval(result[top], result[bottom], seed)
        result[f"all_{name}_interval"] = _interval(_over_steps(result[top]), _over_steps(result[bottom]), seed)
    result.attrs = {
        "title": runs.title(trees[0]), "starts": result.sizes["start"], "paths": int(result["paths"].max(skipna=True)),
        "steps": int(trees[0]["metrics"].sizes["step"]),
    }  # fmt: skip
    return result


def _pooled() -> dict[str, tuple[str, str]]:
    """Quantity -> what is summed over starts above and below the line."""
    energies = {name: (f"{name}_energy", "d_energy") for name in ENERGIES}
    return {"slope": ("along", "d_energy"), **energies, "share": ("systematic_energy", "total_energy")}


def _of_arm(run: xr.DataTree, arm: runs.Arm) -> list[dict[str, Any]]:
    """One row for every start of an arm that acts on one step alone; [] where each start has one path."""
    delta = _field(runs.final_delta(run), arm.name)
    null = _field(runs.need(run, "decomposition/null_sum", "finals,null"), arm.name)
    start = np.array(pairing.identities(run, paths=False))
    name = arm.mask if arm.strength == 1 else f"{arm.mask} × {arm.strength:g}"
    rows = []
    for which in dict.fromkeys(start.tolist()):
        chosen = np.flatnonzero(start == which)
        if chosen.size < 2:
            continue
        error, d = delta[chosen], null[chosen].mean(0)
        rows.append({
            "mask": name, "step": arm.window.start, "start": which, "paths": chosen.size, "d_energy": float(d @ d),
            "along": float(error.mean(0) @ d), "systematic_energy": off_diagonal(error, error),
            "total_energy": float((error**2).sum(1).mean()), "departure_energy": off_diagonal(error - d, error - d),
        })  # fmt: skip
    return rows


def _field(values: xr.DataArray, arm: str) -> np.ndarray:
    array = values.sel(arm=arm).transpose("sample", *spectrum.STATE).values
    return np.asarray(array, np.float64).reshape(len(array), -1)


def _over_steps(values: xr.DataArray) -> xr.DataArray:
    """Sum over the steps that a mask was run at, (mask, start); NaN for a start that lacks one of them."""
    run_at = values.notnull().any("start")
    return values.where(run_at, 0.0).sum("step", skipna=False)


def _interval(top: xr.DataArray, bottom: xr.DataArray, seed: int) -> xr.DataArray:
    """Sum over starts of `top` over that of `bottom`, with 95% BCa limits over starts, along `bound`."""
    shape = [name for name in top.dims if name != "start"]
    pairs = xr.concat([top, bottom], dim="part").transpose(*shape, "part", "start")
    flat = pairs.values.reshape(-1, 2, pairs.sizes["start"])
    limits = np.stack([_ratio(sums, seed) for sums in flat]).reshape(*(pairs.sizes[name] for name in shape), 3)
    coords = {name: pairs[name] for name in shape}
    return xr.DataArray(limits, dims=[*shape, "bound"], coords={**coords, "bound": list(statistics.BOUNDS)})


def _ratio(sums: np.ndarray, seed: int) -> list[float]:
    known = sums[:, np.isfinite(sums).all(axis=0)]
    if not known.size or not known[1].sum() > 0:
        return [np.nan] * 3
    drawn = resample(lambda index: known[0][index].sum(-1) / known[1][index].sum(-1), known.shape[1], seed=seed)
    low, high = drawn.interval(0.95)
    return [low, drawn.estimate, high]


# --- presentation ---


@renoise.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per intervention and step, and one for all steps: slope, energies over |d|^2 and the systematic share."""
    rows, called = [], nouns.wording(dataset).noun
    for mask in dataset["mask"].values:
        at = dataset.sel(mask=mask)
        for step in [*dataset["step"].values, "all"]:
            row: dict[str, Any] = {called: str(mask), "step": str(step)}
            for name in QUANTITIES:
                interval = at[f"all_{name}_interval"] if step == "all" else at[f"{name}_interval"].sel(step=step)
                low, value, high = (float(bound) for bound in runs.bounds(interval))
                row[name] = value
                row |= {f"{name} low": low, f"{name} high": high} if name in ("slope", "systematic", "share") else {}
            rows.append(row)
    return pd.DataFrame(rows)


@renoise.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Over all steps: where injections end on average, and how much of what single paths show is scatter."""
    texts = []
    for mask in dataset["mask"].values:
        at = dataset.sel(mask=mask)
        values = {name: _quoted(at[f"all_{name}_interval"]) for name in QUANTITIES}
        steps = runs.bounds(at["slope_interval"])[1]
        texts.append(
            f"{mask}: the mean over fresh noise follows d with a slope of {values['slope']}, from "
            f"{words.number(float(steps.min()))} to {words.number(float(steps.max()))} by step; its energy is "
            f"{values['systematic']} times |d|², that of single paths {values['total']} times, so that "
            f"{values['share']} of the energy is systematic and the rest scatter"
        )
    return (
        f"{dataset.attrs['title']}, injections at {dataset.sizes['step']} steps, {dataset.attrs['starts']} starts, "
        f"{dataset.attrs['paths']} fresh noises each. {'. '.join(texts)}. A posterior mean has a slope of 1."
    )


def _quoted(interval: xr.DataArray) -> str:
    low, value, high = (float(bound) for bound in runs.bounds(interval))
    return words.number(value) + (f" [{words.number(low)}, {words.number(high)}]" if np.isfinite(low) else "")


@renoise.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Per step of the injection: slope of the mean on d, and systematic energy beside that of single paths."""
    masks = [str(mask) for mask in dataset["mask"].values]
    canvas, ((left, right),) = figures.panels(1, 2, width=7.4, height=3.2)
    steps = dataset["step"].values
    for mask in masks:
        at, color = dataset.sel(mask=mask), figures.colour(mask, masks)
        for axes, name, look in (
            (left, "slope", {"fmt": "o", "label": mask}),
            (right, "systematic", {"fmt": "o"}),
            (right, "total", {"fmt": "s", "markerfacecolor": "white"}),
        ):
            _errors(axes, steps, at[f"{name}_interval"], color, look)
    for axes in (left, right):
        axes.axhline(1, color=figures.NULL, linewidth=0.9, linestyle=(0, (4, 2)))
        figures.progress_axis(axes, dataset.attrs["steps"])
        axes.set_xlabel(f"{nouns.wording(dataset).acted} step (noise → image)")
    left.set_ylabel("⟨mean difference, d⟩ / |d|²")
    left.set_title("Where an injection ends on average", loc="left")
    figures.log_axis(right)
    right.set_ylabel("energy of the final difference / |d|²")
    right.set_title("Systematic part and all of it", loc="left")
    figures.letters(np.array([left, right]))
    note = (
        "d: shift of the clean prediction that the injection makes. Dashed: carried on as by a posterior mean. In b, "
        "filled circles: systematic energy |E δ|² by off-diagonal sums over noises; open squares: mean energy of "
        "single paths; between them lies the scatter (what is below 0 stands in the table). Bars: 95% intervals."
    )
    heading = f"{dataset.attrs['title']} · {dataset.attrs['starts']} starts × {dataset.attrs['paths']} fresh noises"
    figures.legend_above(canvas, left, heading=heading, note=note)
    return canvas


def _errors(axes: Axes, steps: np.ndarray, interval: xr.DataArray, color: str, look: dict[str, Any]) -> None:
    low, middle, high = (bound.values for bound in runs.bounds(interval))
    size = np.abs(np.stack([middle - low, high - middle]))
    axes.errorbar(steps, middle, size, color=color, markersize=4.5, capsize=2, linewidth=1.2, **look)
