"""The matched experiment: one model per task on the same pictures, tokens, masks, on one axis.

The axis is the shift of each model's own features under a mask, in standard deviations of the clean features, beside
the share of its clean performance that is left. A shift as large as the distance of two unrelated pictures says that
nothing of the clean features is left and not by how much, so it is marked and compared with nothing. Reads saved sweeps
(`classify_clip.figure1` makes them).
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
from analysis.measure import shipped
from analysis.measures.contrasts import bound, chance, saturated, unrelated
from analysis.measures.curves import RESAMPLES, curves, frame_of, resampled, task_of

ONE_PASS = "one pass"


@shipped
def matched(*sweeps: xr.Dataset, timesteps: Sequence[int] | None = None) -> xr.Dataset:
    """Rows of `curves`, and for one-pass denoising a row per spec and timestep; dims (row).

    `shift` is the root mean squared shift in standard deviations, `shift_low` and `shift_high` its 95% limits, `kept`
    the metric as a share of clean (NaN for one pass). `unrelated` is the distance of two unrelated clean pictures,
    `saturated` whether the shift lies near or beyond it (`contrasts.NEAR`), `bound` whether the metric lies at `chance`
    or at its `clean` value (no loss seen). Denoising features are those of the x0-prediction in the embedded
    CLIP, as for generated pictures.
    """
    tasks = [task_of(data) for data in sweeps]
    ranked = curves(*(data for data, task in zip(sweeps, tasks, strict=True) if task != "denoise"))
    frame = frame_of(ranked)
    frame["kept"] = 1 + frame["relative"]
    frame["pass"] = frame["model"] + np.where(frame["task"] == "generate", ", generation", "")
    ends = {(task, _model(data)): data for data, task in zip(sweeps, tasks, strict=True) if task != "denoise"}
    of_row = [ends[key] for key in zip(frame["task"], frame["model"], strict=True)]
    frame["unrelated"] = [unrelated(data) for data in of_row]
    guessing = [chance(data, task) for data, task in zip(of_row, frame["task"], strict=True)]
    frame["bound"] = [*map(bound, frame["value_low"], frame["change_high"], guessing)]
    shift = ["shift", "shift_low", "shift_high", "unrelated"]
    rows = [frame[["pass", "task", "spec", "family", "density", "target_density", *shift, "kept", "bound", "seed_sd"]]]
    rows += [_one_pass(data, timesteps) for data, task in zip(sweeps, tasks, strict=True) if task == "denoise"]
    joined = pd.concat(rows, ignore_index=True)
    joined["saturated"] = saturated(joined["shift_high"].to_numpy(), joined["unrelated"].to_numpy())
    return xr.Dataset({name: ("row", joined[name].to_numpy()) for name in joined.columns}, attrs=ranked.attrs)


def _model(data: xr.Dataset) -> str:
    return json.loads(data.attrs["config"])["model"]


def _one_pass(data: xr.Dataset, timesteps: Sequence[int] | None) -> pd.DataFrame:
    lines, model = [], _model(data)
    for t in data["timestep"].values if timesteps is None else timesteps:
        one = data.sel(timestep=t)
        for spec in dict.fromkeys(data["spec"].values.tolist()):
            cells = np.flatnonzero(data["spec"].values == spec)
            here = one.isel(cell=cells)
            line = {"pass": f"{model}, {ONE_PASS} t={int(t)}", "unrelated": unrelated(one), "bound": ""}
            line |= {"task": "denoise", "spec": spec, "kept": np.nan}
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
    """Shift in standard deviations, one line per family and density, one column per model and pass.

    Shifts that are saturated are left out; a last line has the distance of unrelated pictures.
    """
    frame = _masked(dataset)
    wide = _wide(frame.assign(shift=frame["shift"].where(~frame["saturated"])), "shift")
    apart = frame.groupby("pass", sort=False)["unrelated"].first()
    last = pd.DataFrame([{"family": "unrelated pictures", "density asked": np.nan, **apart}])
    return pd.concat([wide, last], ignore_index=True)


def kept(dataset: xr.Dataset) -> pd.DataFrame:
    """The share of clean performance that is left, in the same layout."""
    return _wide(_masked(dataset), "kept").dropna(axis=1, how="all")


def _masked(dataset: xr.Dataset) -> pd.DataFrame:
    frame = dataset.to_dataframe().reset_index(drop=True)
    return frame[~frame["family"].isin(["clean", "full"])].rename(columns={"target_density": "density asked"})


def _wide(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    asked = ["family", "density asked"]
    wide = frame.pivot_table(index=asked, columns="pass", values=value, sort=False, dropna=False)
    wide = frame[asked].drop_duplicates().merge(wide.reset_index(), how="left")
    wide = wide[[*asked, *dict.fromkeys(frame["pass"])]]
    order = {name: place for place, name in enumerate(FAMILIES)}
    return wide.sort_values(["density asked", "family"], key=lambda c: c.map(order) if c.name == "family" else c)


def local_and_random(dataset: xr.Dataset, density: float) -> pd.DataFrame:
    """Shift under random masks over shift under local ones at one density, per pass: above 1, random is worse.

    `unread`: which of the two are saturated; there is no ratio then. Raises ValueError where a family was not run.
    """
    frame = dataset.to_dataframe().reset_index(drop=True)
    frame = frame[np.isclose(frame["target_density"], density)]
    if missing := [name for name in ("local", "random") if name not in set(frame["family"])]:
        raise ValueError(f"no {' and no '.join(missing)} mask at density {density:g}; sweep with --family local random")
    wide = frame.pivot_table(index="pass", columns="family", values="shift", sort=False)
    over = frame.pivot_table(index="pass", columns="family", values="saturated", aggfunc="any", sort=False)
    unread = [[name for name in ("local", "random") if over.loc[row, name]] for row in wide.index]
    wide["unread"] = [" and ".join(names) for names in unread]
    wide["random / local"] = (wide["random"] / wide["local"]).where(wide["unread"] == "")
    return wide[["local", "random", "random / local", "unread"]].reset_index()


@matched.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """How far features move under random masks against local ones at 25% density, where both can be read."""
    ratios = local_and_random(dataset, 0.25)
    read = ratios[ratios["unread"] == ""]
    clauses = [f"{name} {ratio:.2f}" for name, ratio in zip(read["pass"], read["random / local"], strict=True)]
    text = "Feature shift under random masks over that under local masks, at 25% density: "
    text += (", ".join(clauses) or "read nowhere") + "."
    left = ratios[ratios["unread"] != ""]
    if len(left):
        names = [f"{name} ({which})" for name, which in zip(left["pass"], left["unread"], strict=True)]
        text += f" Not compared, as far as unrelated pictures: {', '.join(names)}."
    return text


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
                look = figures.family_look(family)
                figures.band(ax, line["density"], *bounds, label=family, **look)
                over = line[line["saturated"].astype(bool)]
                hollow = look | {"markerfacecolor": "white", "linestyle": "none", "zorder": 3}
                ax.plot(over["density"], over["shift"], **hollow)
        apart = frame.loc[frame["pass"] == name, "unrelated"].iloc[0]
        ax.axhline(apart, color=figures.NULL, linewidth=0.9, linestyle=figures.DASHES, label="two unrelated pictures")
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
        "features; bands: 95% percentile bootstrap over samples. Dashed: the distance of two unrelated clean pictures "
        "(of one class where the model is told it). Hollow: too near to it, not to be compared with each other."
    )
    figures.legend_above(canvas, axes[0, 0], heading="the same masks for every model", note=note)
    return canvas
