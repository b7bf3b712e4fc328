"""What one disturbed step does to the final image, and what many do together: the counterfactual runs.

Arms of one intervention that act on single steps or windows ("R4S32@steps=7:8") are the true cumulative gains, because
nothing is injected after them (docs/science.md, "Counterfactual runs"). S and R are measured here; whether they make a
verdict is for `verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.answer import null
from analysis.common import nouns, runs, spectrum
from analysis.figures import style as figures
from analysis.measure import shipped
from analysis.measures.bands import to_bands

MOST_MASKS = 4  # drawn
RMS = "RMS over samples"


@shipped
def impulse(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Cumulative gain of every single-step (or tiling window) arm of each mask, its map over bands, and S and R.

    Dimensions: mask (what the windows are a part of, at their dose), window (start of the masked window; `stop` is its
    end), sample, band. `final_l2`: |delta_final|; `left_l2`: |delta| when the window ends, for a single step what it
    injected; `gain` = final / left, `gain_whitened` the same in units of the clean states' spread; `excess` = final
    over its null, 1 in a linear Gaussian world: over the recorded |d_k| for single steps of a stochastic sampler
    recorded with `null`, else over the Gaussian transport of what was left (`excess_gaussian`, always given).
    `map`: final error per band relative to the band's spread, RMS over samples. Per mask and sample, where the
    windows tile the whole run: `S` = |delta_final of the mask| / |sum of its windows' deltas| (needs the arm
    without a window), `R` = |sum of the windows' deltas| / |sum of their nulls|. `S_interval`, `R_interval`,
    `excess_interval` and `gain_interval` are geometric means over samples with BCa limits along `bound`. Raises
    runs.RunError when no mask has at least two windows. Source: docs/science.md, "Counterfactual runs".
    """
    run = runs.complete(run)
    delta = runs.need(run, "trajectory/delta", "norms,latents")
    steps = delta.sizes["step"]
    sets = window_sets(runs.arms(run), steps)
    if not sets:
        mask = next((arm.mask for arm in runs.arms(run)), "R4S32")
        raise runs.RunError(
            "no arm of this run has two windows to compare: add arms such as "
            f"--mask {runs.narrowed(mask, 'steps=0:1')} --mask {runs.narrowed(mask, 'steps=1:2')}"
        )
    variance = spectrum.clean_variance(run)
    each = [_of_mask(run, mask, windows, variance) for mask, windows in sets.items()]
    result = xr.concat(each, dim=xr.Variable("mask", list(sets)), join="outer")
    for name in ("S", "R", "excess", "gain"):
        result[f"{name}_interval"] = runs.geometric(result[name], confidence=confidence, seed=seed)
    result["excess_rms"] = (result["excess"] ** 2).mean("sample", skipna=True) ** 0.5
    free = all(_model_free(run, list(windows)) for windows in sets.values())
    result.attrs = {
        "title": runs.title(run), "samples": result.sizes["sample"], "steps": steps, "confidence": confidence,
        "null": "model-free" if free else "gaussian", "arms": [arm.name for arm in runs.arms(run) if arm.whole],
    }  # fmt: skip
    return result


def window_sets(arms: Sequence[runs.Arm], steps: int) -> dict[str, dict[range, str]]:
    """Windows of each mask: {mask: {window: arm}}, its single steps if there are any, else a tiling of the run.

    Windows at another dose than 1 are of the mask at that dose. Arms with a pause are no windows. `steps` is the number
    of steps of the run.
    """
    groups: dict[tuple[str, float], dict[range, str]] = {}
    for arm in arms:
        if not arm.paused:
            groups.setdefault((arm.mask, arm.strength), {})[arm.window] = arm.name
    chosen = {}
    for (mask, strength), windows in groups.items():
        single = {window: arm for window, arm in windows.items() if len(window) == 1}
        picked = single or _tiling(windows, steps)
        if len(picked) > 1:
            whole = whole_of(arms, mask, strength)
            name = mask if strength == 1 else whole or f"{mask}, dose {strength:g}"
            chosen[name] = dict(sorted(picked.items(), key=lambda item: item[0].start))
    return chosen


def whole_of(arms: Sequence[runs.Arm], mask: str, strength: float = 1.0) -> str | None:
    """The arm that is a mask at some dose over the whole run, None if there is none."""
    return next((arm.name for arm in arms if arm.whole and (arm.mask, arm.strength) == (mask, strength)), None)


def _tiling(windows: dict[range, str], steps: int) -> dict[range, str]:
    """The windows that follow each other from step 0, the shortest first; the whole run itself is none of them."""
    picked, start = {}, 0
    while start < steps:
        following = [window for window in windows if window.start == start and 0 < len(window) < steps]
        if not following:
            break
        window = min(following, key=len)
        picked[window], start = windows[window], window.stop
    return picked


def _of_mask(run: xr.DataTree, mask: str, arms: dict[range, str], variance: xr.DataArray) -> xr.Dataset:
    """One mask: gains, excess and map of its windows, and S and R of them all; dims (window, sample, band)."""
    delta, windows, names = runs.get(run, "trajectory/delta"), list(arms), list(arms.values())
    final = _windows(delta.sel(arm=names).isel(step=-1, drop=True))
    ends = xr.DataArray([window.stop - 1 for window in windows], dims="arm")
    left = _windows(delta.sel(arm=names).isel(arm=xr.DataArray(range(len(names)), dims="arm"), step=ends))
    last = xr.DataArray([window.stop - 1 for window in windows], dims="window")
    carried = _carry(run, left, last, variance)
    lam, edges = variance.isel(step=-1, drop=True), spectrum.band_edges(delta.sizes["y"], delta.sizes["x"])
    final_energy, left_energy = spectrum.ring_energy(final), spectrum.ring_energy(left)
    left_l2, final_l2, null_l2 = spectrum.norm(left), spectrum.norm(final), spectrum.norm(carried)
    relative, spread = final_energy / lam, variance.isel(step=last).drop_vars("step", errors="ignore")
    in_bands = to_bands(relative, edges) / to_bands(spectrum.ring_size(final), edges)
    result = xr.Dataset({
        "final_l2": final_l2,
        "left_l2": left_l2,
        "gain": final_l2 / left_l2.where(left_l2 > 0),
        "gain_whitened": np.sqrt(relative.sum("ring", skipna=False) / (left_energy / spread).sum("ring", skipna=False)),
        "excess_gaussian": final_l2 / null_l2.where(null_l2 > 0),
        "map": np.sqrt(in_bands.mean("sample", skipna=False)),
    })  # fmt: skip
    result["excess"] = result["excess_gaussian"]
    if _model_free(run, windows):
        model_free = _windows(runs.get(run, "metrics/null_l2").sel(arm=names).max("step", skipna=False))
        result["excess"] = final_l2 / model_free.where(model_free > 0)
    result.update(_together(run, mask, arms, final, carried))
    stops = [window.stop for window in windows]
    return result.assign_coords(
        window=[window.start for window in windows], stop=("window", stops), band=spectrum.band_names(edges)
    )


def _windows(values: xr.DataArray) -> xr.DataArray:
    """Values of the window arms in memory, float64, along `window` instead of `arm`."""
    plain = values.reset_coords(drop=True).rename(arm="window").drop_vars(["window", "step"], errors="ignore")
    return plain.astype(np.float64).compute()


def _model_free(run: xr.DataTree, windows: list[range]) -> bool:
    """Whether every window has a recorded model-free null of its own."""
    return runs.stochastic(run) and runs.has(run, "metrics/null_l2") and all(len(window) == 1 for window in windows)


def _together(
    run: xr.DataTree, mask: str, arms: dict[range, str], final: xr.DataArray, carried: xr.DataArray
) -> xr.Dataset:
    """S, R and the norms they are made of; NaN where the windows leave a step out or the whole mask was not run."""
    unknown = xr.full_like(spectrum.norm(final).isel(window=0, drop=True), np.nan)
    steps = run["metrics"].sizes["step"]
    covered = sorted(step for window in arms for step in window) == list(range(steps))
    summed, nulls = spectrum.norm(final.sum("window", skipna=False)), spectrum.norm(_null_total(run, arms, carried))
    result = xr.Dataset(dict.fromkeys(("S", "R", "sum_l2", "null_l2", "whole_l2"), unknown))
    if covered:
        result["sum_l2"], result["null_l2"] = summed, nulls
        result["R"] = summed / nulls.where(nulls > 0)
        if mask in runs.names(run):
            last = runs.get(run, "trajectory/delta").sel(arm=mask).isel(step=-1, drop=True)
            result["whole_l2"] = spectrum.norm(last.astype(np.float64).compute()).reset_coords(drop=True)
            result["S"] = result["whole_l2"] / summed.where(summed > 0)
    return result


def _null_total(run: xr.DataTree, arms: dict[range, str], carried: xr.DataArray) -> xr.DataArray:
    """Sum of the windows' nulls: the recorded model-free ones where there are, else their Gaussian transport."""
    if runs.stochastic(run) and runs.has(run, "decomposition/null_sum"):
        recorded = runs.get(run, "decomposition/null_sum").sel(arm=list(arms.values())).sum("arm", skipna=False)
        return recorded.astype(np.float64).compute().reset_coords(drop=True)
    return carried.sum("window", skipna=False)


def _carry(run: xr.DataTree, left: xr.DataArray, last: xr.DataArray, variance: xr.DataArray) -> xr.DataArray:
    """Each window's remaining error carried to the final state by the Gaussian map, per mode."""
    gain = null.final_gain(run, variance.isel(step=-1, drop=True)).isel(step=last).transpose("window", "ring")
    per_mode = spectrum.per_mode(gain.values, left.sizes["y"], left.sizes["x"])
    spread = xr.DataArray(per_mode, dims=("window", "y", "x"))
    return xr.apply_ufunc(
        lambda field, by: spectrum.fields(spectrum.modes(field) * by[..., None, :, :]), left, spread,
        input_core_dims=[list(spectrum.STATE), ["y", "x"]], output_core_dims=[list(spectrum.STATE)],
    )  # fmt: skip


# --- presentation ---


@impulse.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and window: final error, gain, excess over the Gaussian null; S and R repeated per arm."""
    rows, called = [], nouns.wording(dataset).noun
    for mask in dataset["mask"].values:
        at = dataset.sel(mask=mask)
        together = {name: float(runs.bounds(at[f"{name}_interval"])[1]) for name in ("S", "R")}
        for start in at["window"].values[at["final_l2"].notnull().any("sample").values]:
            here = at.sel(window=start)
            low, excess, high = (float(bound) for bound in runs.bounds(here["excess_interval"]))
            row = {called: str(mask), "start": int(start), "stop": int(here["stop"])}
            row |= {"final error": float(here["final_l2"].mean(skipna=False))}
            row |= {"gain": float(runs.bounds(here["gain_interval"])[1])}
            row |= {"excess": excess, "excess low": low, "excess high": high}
            rows.append(row | {"excess, RMS": float(here["excess_rms"])} | together)
    return pd.DataFrame(rows)


@impulse.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Where a single disturbed step hurts most, and whether the parts add up to the whole."""
    texts, called = [], nouns.wording(dataset)
    for mask in dataset["mask"].values:
        at = dataset.sel(mask=mask)
        typical = at["final_l2"].mean("sample", skipna=False)
        worst = int(np.argmax(typical.fillna(-1).values))
        start, stop = int(at["window"][worst]), int(at["stop"][worst])
        alone = f"{called.acting} steps {start}:{stop} alone"
        text = f"{mask}: {alone} leaves the largest final error ({float(typical.max()):.3g})"
        for name, meaning in (
            ("S", f"the whole {called.noun}'s error over the sum of its parts"),
            ("R", "the sum over its null"),
        ):
            low, point, high = (float(bound) for bound in runs.bounds(at[f"{name}_interval"]))
            if np.isfinite(point):
                text += f"; {name} = {point:.3g} [{low:.3g}, {high:.3g}], {meaning}"
        texts.append(text)
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {'. '.join(texts)}."


@impulse.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Step of the intervention x band of the final error, with the excess of every impulse below."""
    masks, acted = [str(mask) for mask in dataset["mask"].values[:MOST_MASKS]], nouns.wording(dataset).acted
    views = {mask: _present(dataset.sel(mask=mask)) for mask in masks}
    width = max(5.0, 3.6 * len(masks))
    canvas, axes = figures.panels(2, len(masks), width=width, height=2.2, sharex=True, sharey="row")
    limits = figures.map_limits([view["map"].values for view in views.values()])
    palette = list(dict.fromkeys([*np.atleast_1d(dataset.attrs.get("arms", [])), *dataset["mask"].values]))
    for column, (mask, at) in enumerate(views.items()):
        upper, lower = axes[:, column]
        edges, single = _edges(at), bool((at["stop"] - at["window"] == 1).all())
        values, names = at["map"].transpose("band", "window").values, list(at["band"].values)
        figures.band_map(canvas, upper, values, names, label="final error (sd)", edges=edges, limits=limits)
        upper.set_title(f"{acted.capitalize()} at one {'step' if single else 'window'} only, {mask}", loc="left")
        x = (edges[:-1] + edges[1:]) / 2
        figures.band(lower, x, *runs.bounds(at["excess_interval"]), color=figures.colour(mask, palette), label=mask)
        lower.plot(x, at["excess_rms"], color="#333333", linewidth=1, linestyle=figures.DASHES, label=RMS)
        lower.axhline(1, color="black", linewidth=0.7)
        lower.set_xlabel(f"{acted} {'step' if single else 'window'} (noise → image)")
        lower.set_title("Excess cumulative gain", loc="left")
        figures.log_axis(lower)
    for ax, label in zip(axes[:, 0], ("band", "error / null"), strict=True):
        ax.set_ylabel(label)
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    figures.letters(axes)
    samples = dataset.attrs["samples"]
    heading = (
        f"{dataset.attrs['title']} · {samples} samples · geometric mean, {dataset.attrs['confidence']:.0%} BCa bands"
    )
    null_name = {"gaussian": "additive Gaussian null", "model-free": "model-free null"}[dataset.attrs["null"]]
    note = (
        "Top row: final error per band, RMS over samples, in standard deviations of clean images in that band; bands "
        f"in half cycles per image. Bottom row: final error over its {null_name}; 1 is what addition alone gives."
    )
    note += figures.few(samples) + figures.left_out(dataset.sizes["mask"], len(masks))
    figures.legend_above(canvas, *axes[1], heading=heading, note=note)
    return canvas


def _present(at: xr.Dataset) -> xr.Dataset:
    """The windows that an intervention has."""
    return at.isel(window=np.flatnonzero(at["final_l2"].notnull().any("sample").values))


def _edges(at: xr.Dataset) -> np.ndarray:
    """Edges of the windows along the step axis, steps being centred on their number; a last one closes the row."""
    starts, stops = at["window"].values.astype(float), at["stop"].values
    pace = np.diff(starts).min() if starts.size > 1 else 1.0
    return np.append(starts, max(stops[-1], starts[-1] + pace)) - 0.5
