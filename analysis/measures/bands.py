"""Which scales of the image carry the error: everything again per octave of spatial frequency.

Bands are octaves of radial DCT rings, from the constant mode up. Errors are relative to the spread of the clean
states in the same band, so bands can be compared; a verdict per band is not given here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import null
from analysis.common import runs, spectrum
from analysis.figures import style as figures
from analysis.measure import shipped

MOST_ARMS = 4  # drawn


@shipped
def bands(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Error per step and octave band of every intervened arm: (arm, sample, step, band), coordinate `band`.

    `error` is |V_t^-1/2 delta| per band over the square root of the band's number of coefficients, 1 meaning an error
    as large as the clean states' own spread; `share` is the band's part of |delta|^2 after the last step. With the
    record `decomposition`: `injected` (like `error`), `null` (final error under the Gaussian transport of the
    injections) and `ratio` = final error / `null`. `final_interval`, `null_interval` and `ratio_interval` are geometric
    means over samples with BCa limits along `bound`. Raises RunError without latents.
    """
    run = runs.complete(run)
    delta = runs.need(run, "trajectory/delta", "norms,latents")
    edges = spectrum.band_edges(delta.sizes["y"], delta.sizes["x"])
    variance = spectrum.clean_variance(run)
    size = spectrum.ring_size(delta)
    names = runs.names(run)

    def relative(energy: xr.DataArray, scale: xr.DataArray) -> xr.DataArray:
        whole = to_bands(energy / scale, edges) / to_bands(size, edges)
        return (whole**0.5).compute().reset_coords(drop=True)

    energy = spectrum.recorded_energy(run, "trajectory/delta", names).compute()
    last = energy.isel(step=-1, drop=True)
    total = last.sum("ring", skipna=False)
    result = xr.Dataset({"error": relative(energy, variance)})
    result["share"] = to_bands(last, edges) / total.where(total > 0)
    result["final"] = result["error"].isel(step=-1, drop=True)
    if runs.has(run, "decomposition/injected"):
        lam = variance.isel(step=-1, drop=True)
        injected = spectrum.recorded_energy(run, "decomposition/injected", names)
        carried = null.transported(run, lam)["state"].sel(arm=names).isel(step=-1, drop=True)
        result["injected"] = relative(injected, variance)
        result["null"] = relative(carried, lam)
        result["ratio"] = result["final"] / result["null"].where(result["null"] > 0)
    for name in ("final", "null", "ratio"):
        if name in result:
            result[f"{name}_interval"] = runs.geometric(result[name], confidence=confidence, seed=seed)
    result = result.assign_coords(band=spectrum.band_names(edges), first_ring=("band", edges[:-1]))
    result["band"].attrs = {"long_name": "radial spatial frequency", "units": "half cycles per image"}
    result = runs.with_arms(result, run)
    result.attrs = {"title": runs.title(run), "samples": result.sizes["sample"], "confidence": confidence}
    return result


def to_bands(values: xr.DataArray, edges: np.ndarray) -> xr.DataArray:
    """Sum of values over the rings of each band: (..., ring) -> (..., band)."""
    starts = list(edges[:-1])
    return xr.apply_ufunc(
        lambda block: np.add.reduceat(block, starts, axis=-1), values, input_core_dims=[["ring"]],
        output_core_dims=[["band"]], dask="parallelized", output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"band": len(starts)}, "allow_rechunk": True},
    )  # fmt: skip


# --- presentation ---


@bands.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and band: final relative error, its share of the energy, and with injections the null and
    ratio.
    """
    rows = []
    for arm in dataset["arm"].values:
        for band in dataset["band"].values:
            at = dataset.sel(arm=arm, band=band)
            row: dict[str, object] = {"arm": str(arm), "band": str(band)}
            row["share of energy"] = float(at["share"].mean(skipna=True))
            for name in ("final", "null", "ratio"):
                if name in dataset:
                    low, middle, high = (float(bound) for bound in runs.bounds(at[f"{name}_interval"]))
                    row |= {name: middle, f"{name} low": low, f"{name} high": high}
            rows.append(row)
    return pd.DataFrame(rows)


@bands.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Which band carries most of the final error, and which is off most for its own spread."""
    texts = []
    shown, rest = runs.to_tell(dataset)
    for arm in shown:
        at = dataset.sel(arm=arm)
        share, final = at["share"].mean("sample", skipna=True), runs.bounds(at["final_interval"])[1]
        most, worst = (str(values["band"][int(np.argmax(values.values))].values) for values in (share, final))
        texts.append(
            f"{arm}: {float(share.max()):.0%} of the final error's energy lies in band {most}, and relative to the "
            f"data's own spread band {worst} is off most ({float(final.max()):.3g})"
        )
    units = "bands in half cycles per image"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples, {units}. {'; '.join(texts)}{rest}."


@bands.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Per arm: error by step and band as a map, and the final error per band beside its additive null."""
    arms = runs.to_draw(dataset, MOST_ARMS)
    maps = [name for name in ("injected", "error") if name in dataset]
    rows, columns = len(arms), len(maps) + 1
    canvas, axes = figures.panels(rows, columns, width=3.0 * columns, height=2.2, sharex="col", sharey="col")
    titles = {"injected": "Injected", "error": "Error"}
    for column, name in enumerate(maps):
        typical = (dataset[name].sel(arm=arms) ** 2).mean("sample", skipna=False) ** 0.5
        typical = typical.transpose("arm", "band", "step")
        limits = figures.map_limits([typical.values])
        for ax, arm in zip(axes[:, column], arms, strict=True):
            values, names = typical.sel(arm=arm).values, list(dataset["band"].values)
            figures.band_map(canvas, ax, values, names, label="size (sd)", limits=limits)
            ax.set_title(f"{titles[name]}, {arm}", loc="left")
            figures.progress_axis(ax, dataset.sizes["step"], cells=True)
    for ax, arm in zip(axes[:, -1], arms, strict=True):
        _final(ax, dataset.sel(arm=arm), figures.look(arm, figures.palette(dataset), every=None))
        ax.set_ylabel("final error (sd)")
    figures.log_axis(axes[0, -1])
    for ax in axes[:-1].ravel():
        ax.set_xlabel("")
    figures.letters(axes)
    samples = dataset.attrs["samples"]
    heading = (
        f"{dataset.attrs['title']} · {samples} samples · geometric mean, {dataset.attrs['confidence']:.0%} BCa bars"
    )
    note = (
        "Sizes are in standard deviations of clean states in the same band; bands are octaves of radial frequency, in "
        "half cycles per image. Maps: what a step injects and the error after it, RMS over samples, one colour "
        "scale a column; white: nothing."
    )
    note += figures.few(samples) + figures.left_out(dataset.sizes["arm"], len(arms))
    figures.legend_above(canvas, *axes[:, -1], heading=heading, note=note)
    return canvas


def _final(ax: Axes, at: xr.Dataset, look: dict[str, Any]) -> None:
    """The final error of an arm per band, beside its null."""
    x = np.arange(at.sizes["band"])
    null_look = {"color": figures.NULL, "marker": "x", "linestyle": figures.DASHES}
    for name, style in (("null", null_look), ("final", {"marker": "o"} | look)):
        if name in at:
            low, middle, high = (bound.values for bound in runs.bounds(at[f"{name}_interval"]))
            label = "additive Gaussian null" if name == "null" else str(at["arm"].values)
            errors = np.maximum(np.stack([middle - low, high - middle]), 0)
            bars = {"markersize": 4, "linewidth": 1.2, "capsize": 2} | style | {"markevery": None}
            ax.errorbar(x, middle, errors, label=label, **bars)
    ax.set_yscale("log")
    ax.set_xticks(x, at["band"].values, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_xlabel("band")
    ax.set_title("Final error", loc="left")
