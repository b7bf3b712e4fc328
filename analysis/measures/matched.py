"""The matched experiment: one model per task on the same pictures, tokens, masks, on one axis.

The axis is the shift of each model's own features under a mask, in standard deviations of the clean features, beside
the share of its clean performance that is left. Reads saved sweeps (`classify_clip.figure1` makes them).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.figures import style as figures
from analysis.figures.style import FAMILIES
from analysis.measure import measure
from analysis.measures.curves import RESAMPLES, curves, frame_of, resampled

ONE_PASS = "one pass"
UNRELATED = np.sqrt(2)
"""Where shifts saturate: the distance of two independent vectors of features with unit variance."""


@measure(question="Every model under the same masks, on one axis of feature shift", reads="sweeps")
def matched(*sweeps: xr.Dataset, timesteps: Sequence[int] | None = None) -> xr.Dataset:
    """Rows of `curves`, and for one-pass denoising a row per spec and timestep; dims (row).

    `shift` is the root mean squared shift in standard deviations, `shift_low` and `shift_high` its 95% limits, `kept`
    the metric as a share of clean (NaN for one pass). Denoising features are those of the x0-prediction in the embedded
    CLIP, as for generated pictures.
    """
    tasks = [json.loads(data.attrs["config"])["task"] for data in sweeps]
    ranked = curves(*(data for data, task in zip(sweeps, tasks, strict=True) if task != "denoise"))
    frame = frame_of(ranked)
    frame["kept"] = 1 + frame["relative"]
    frame["pass"] = frame["model"] + np.where(frame["task"] == "generate", ", generation", "")
    shift = ["shift", "shift_low", "shift_high"]
    rows = [frame[["pass", "task", "spec", "family", "density", "target_density", *shift, "kept", "seed_sd"]]]
    rows += [_one_pass(data, timesteps) for data, task in zip(sweeps, tasks, strict=True) if task == "denoise"]
    joined = pd.concat(rows, ignore_index=True)
    return xr.Dataset({name: ("row", joined[name].to_numpy()) for name in joined.columns}, attrs=ranked.attrs)


def _one_pass(data: xr.Dataset, timesteps: Sequence[int] | None) -> pd.DataFrame:
    lines = []
    for t in data["timestep"].values if timesteps is None else timesteps:
        one = data.sel(timestep=t)
        for spec in dict.fromkeys(data["spec"].values.tolist()):
            cells = np.flatnonzero(data["spec"].values == spec)
            here = one.isel(cell=cells)
            line = {"pass": f"dit, {ONE_PASS} t={int(t)}", "task": "denoise", "spec": spec, "kept": np.nan}
            line |= {name: here[name].values[0] for name in ("family", "target_density")}
            line |= {"density": float(here["density"].mean(skipna=False)), "seed_sd": np.nan}
            line["shift"] = float(np.sqrt(here["feature_fvu"].astype(float).mean(skipna=False)))
            line["shift_low"], line["shift_high"] = _limits(here["feature_fvu"])
            line["x0_shift"] = float(np.sqrt(here["x0_fvu"].astype(float).mean(skipna=False)))
            lines.append(line)
    return pd.DataFrame(lines)


def _limits(fvu: xr.DataArray) -> np.ndarray:
    """95% percentile limits over samples of the root mean square shift, mask seeds averaged."""
    values = fvu.transpose("cell", "sample").values.astype(float).mean(0)
    drawn = resampled(len(values), RESAMPLES, 0)[1:]
    return np.quantile(np.sqrt(drawn @ values / len(values)), (0.025, 0.975))


@matched.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """Shift in standard deviations, one line per family and density, one column per model and pass."""
    return _wide(dataset, "shift")


def kept(dataset: xr.Dataset) -> pd.DataFrame:
    """The share of clean performance that is left, in the same layout."""
    return _wide(dataset, "kept").dropna(axis=1, how="all")


def _wide(dataset: xr.Dataset, value: str) -> pd.DataFrame:
    frame = dataset.to_dataframe().reset_index(drop=True)
    frame = frame[~frame["family"].isin(["clean", "full"])]
    frame["density asked"] = frame["target_density"]
    wide = frame.pivot_table(index=["family", "density asked"], columns="pass", values=value, sort=False, dropna=False)
    order = {name: place for place, name in enumerate(FAMILIES)}
    wide = wide.dropna(axis=0, how="all").reset_index()
    return wide.sort_values(["density asked", "family"], key=lambda c: c.map(order) if c.name == "family" else c)


def reversal(dataset: xr.Dataset, density: float) -> pd.DataFrame:
    """Shift under random masks over shift under local ones at one density, per pass: above 1, random is worse."""
    frame = dataset.to_dataframe().reset_index(drop=True)
    frame = frame[np.isclose(frame["target_density"], density)]
    wide = frame.pivot_table(index="pass", columns="family", values="shift", sort=False)
    wide["random / local"] = wide["random"] / wide["local"]
    return wide[["local", "random", "random / local"]].reset_index()


@matched.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Which kind of mask hurts which task more, at 25% density."""
    ratios = reversal(dataset, 0.25)
    clauses = [f"{name} {ratio:.2f}" for name, ratio in zip(ratios["pass"], ratios["random / local"], strict=True)]
    return "Feature shift under random masks over that under local masks, at 25% density: " + ", ".join(clauses) + "."


@matched.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Shift against density, one panel per model and pass, on one logarithmic axis."""
    frame = dataset.to_dataframe().reset_index(drop=True)
    passes = list(dict.fromkeys(frame["pass"]))
    columns = min(len(passes), 4)
    rows = -(-len(passes) // columns)
    canvas, axes = figures.panels(
        rows, columns, width=max(4.6, 1.0 + 2.0 * columns), height=2.2, sharex=True, sharey=True
    )
    for ax, name in zip(axes.ravel(), passes, strict=False):
        for family in FAMILIES:
            line = frame[(frame["pass"] == name) & (frame["family"] == family)].sort_values("density")
            if len(line):
                bounds = (line["shift_low"], line["shift"], line["shift_high"])
                figures.band(ax, line["density"], *bounds, label=family, **figures.family_look(family))
        ax.axhline(
            UNRELATED, color=figures.NULL, linewidth=0.9, linestyle=figures.DASHES, label="unrelated pictures (√2)"
        )
        ax.set_title(name, loc="left")
        ax.set_xlim(0, 1)
    figures.log_axis(axes[0, 0])
    for ax in axes.ravel()[len(passes) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("feature shift (sd)")
    for place in range(len(passes) - columns, len(passes)):  # the lowest panel of each column
        ax = axes.ravel()[place]
        ax.set_xlabel("density of image pairs")
        ax.tick_params(labelbottom=True)
    figures.letters(axes)
    note = (
        "Root mean squared shift of each model's own features under a mask, in standard deviations of the clean "
        "features; bands: 95% percentile bootstrap over samples. Dashed: √2, the distance of two unrelated pictures."
    )
    figures.legend_above(canvas, axes[0, 0], heading="the same masks for every model", note=note)
    return canvas
