"""Feedback at every step: the arm's error over that of the replay, which meets the same clean network.

The replay plays the clean path's injections through the clean network, so that the two differ only in whether the
arm acts where the error is. `verdict` judges S at the end; here it is followed along the path, with pictures.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import words
from analysis.answer.margins import MARGIN
from analysis.common import nouns, pairing, runs, statistics
from analysis.figures import style as figures
from analysis.measure import shipped

PICTURES = 5  # samples shown
MOST_ARMS = 6  # drawn
RATIOS = {
    "S": ("delta_l2", "replay_l2"),
    "injection_ratio": ("own_injected_l2", "injected_l2"),
    "shift_ratio": ("own_l2", "null_l2"),
}
"""Ratio -> the norms (top, bottom) that it is made of."""


@shipped
def feedback(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """S = |y - x| / |w - x| after every step and at the end, for every intervened arm and sample.

    x, y and w are the clean, the arm's and the replayed path. `S` (arm, sample, step), `final` (arm, sample) its value
    at the end. Where the own-path sum was recorded, `injection_ratio` = |G(y) - F(y)| / |G(x) - F(x)| says whether the
    changed path's injections are larger than the clean path's, and `shift_ratio` = |d*_k| / |d_k| whether they shift
    the prediction more; where only the second rises, the response is steeper. NaN where the lower norm is 0.
    `*_interval` are geometric means with BCa limits over starts along `bound`, `final_rms` the RMS at the end.
    `image` (shown, picture, image_y, image_x, rgb) holds clean, replayed and changed pictures of the first samples of
    the first arm, where recorded. Raises RunError where no replay was recorded.
    Source: docs/science.md, "Feedback: the replay".
    """
    run = runs.complete(run)
    runs.need(run, "metrics/replay_l2", "replay")
    names, start = runs.names(run), pairing.identities(run, paths=False)
    if not names:
        raise runs.RunError("this run has no intervened arm: add one with `trace run ... --mask R4S32`")
    metrics = run["metrics"].to_dataset().sel(arm=names)
    result = xr.Dataset()
    for name, (top, bottom) in RATIOS.items():
        if top in metrics and bottom in metrics:
            size = runs.plain(metrics[bottom])
            result[name] = (
                (runs.plain(metrics[top]) / size.where(size > 0)).transpose("arm", "sample", "step").compute()
            )
            result[f"{name}_interval"] = _geometric(result[name], start, confidence, seed)
    result["final"] = result["S"].isel(step=-1, drop=True)
    result["final_interval"] = _geometric(result["final"], start, confidence, seed)
    result["final_rms"] = (result["final"] ** 2).mean("sample", skipna=True) ** 0.5
    if runs.has(run, "images/replay") and runs.has(run, "images/image"):
        result["image"] = _pictures(run, next((arm.name for arm in runs.arms(run) if arm.whole), names[0]))
    result = runs.with_arms(result, run)
    result.attrs |= {"title": runs.title(run), "samples": result.sizes["sample"], "starts": len(set(start))}
    result.attrs["confidence"] = confidence
    return result


def _geometric(values: xr.DataArray, start: list[str], confidence: float, seed: int) -> xr.DataArray:
    """Geometric mean over starts of those over their paths, with BCa limits along `bound`."""
    logs = xr.apply_ufunc(np.log, values.where(values > 0)).reset_coords(drop=True)
    grouped = logs.groupby(xr.DataArray(start, dims="sample", name="start")).mean(skipna=True)
    interval = statistics.intervals(
        grouped, dim="start", confidence=(confidence,), seed=seed, resamples=runs.BAND_RESAMPLES
    )
    return xr.apply_ufunc(np.exp, interval.squeeze("confidence", drop=True))


def _pictures(run: xr.DataTree, arm: str) -> xr.DataArray:
    """Clean, replayed and changed pictures of the first samples, one of every start: (shown, picture, ...)."""
    start = pairing.identities(run, paths=False)
    first = [start.index(name) for name in dict.fromkeys(start)][:PICTURES]
    images = run["images"].to_dataset().isel(sample=first)
    rows = [images["image"].sel(arm=runs.CLEAN), images["replay"].sel(arm=arm), images["image"].sel(arm=arm)]
    stacked = xr.concat([row.reset_coords(drop=True).drop_vars("arm", errors="ignore") for row in rows], dim="picture")
    acted = nouns.Wording(nouns.of_runs([run])).acted
    stacked = stacked.assign_coords(picture=["clean", "replayed", acted]).rename(sample="shown")
    return stacked.drop_vars("shown", errors="ignore").astype(np.uint8).compute().assign_attrs(arm=arm)


# --- presentation ---


@feedback.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm: S at the end with its interval and RMS, and where along the path it is largest."""
    rows = []
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        low, middle, high = (float(bound) for bound in runs.bounds(at["final_interval"]))
        path = runs.bounds(at["S_interval"])[1].values
        row = {"arm": str(arm), "S": middle, "S low": low, "S high": high, "S RMS": float(at["final_rms"])}
        largest = int(np.argmax(np.where(np.isfinite(path), path, -np.inf))) if np.isfinite(path).any() else -1
        row |= {"largest S": path[largest] if largest >= 0 else np.nan, "at step": largest}
        for name in ("injection_ratio", "shift_ratio"):
            if name in at:
                row[name.replace("_", " ")] = float(np.exp(np.log(runs.bounds(at[f"{name}_interval"])[1]).mean()))
        rows.append(row)
    return pd.DataFrame(rows)


@feedback.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """S of every whole arm at the end, and the largest along the path."""
    texts = []
    told, rest = runs.to_tell(dataset)
    for arm in told:
        at = dataset.sel(arm=arm)
        low, middle, high = (float(bound) for bound in runs.bounds(at["final_interval"]))
        limits = f" [{words.number(low)}, {words.number(high)}]" if np.isfinite(low) else ""
        path = runs.bounds(at["S_interval"])[1].values
        text = f"{arm}: S {words.number(middle)}{limits} at the end, RMS {words.number(float(at['final_rms']))}"
        if np.isfinite(path).any():
            step = int(np.argmax(np.where(np.isfinite(path), path, -np.inf)))
            text += f", largest {words.number(float(path[step]))} after step {step}"
        texts.append(text)
    size = f"{dataset.attrs['samples']} samples"
    if dataset.attrs["starts"] < dataset.attrs["samples"]:
        size += f" from {dataset.attrs['starts']} starts"
    both = f"the {nouns.wording(dataset).acted} path over that of the replay"
    return (
        f"{dataset.attrs['title']}, {size}. Error of {both}: {'; '.join(texts)}{rest}."
        " 1 is no feedback; `trace analyze verdict` answers with margins."
    )


@feedback.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """S per step, the ratios of injections where recorded, and the three pictures of the same samples in rows."""
    more = "injection_ratio" in dataset
    pictures = dataset.get("image")
    columns = 1 + more + (pictures is not None)
    ratios = [1.3, *([1.3] if more else []), *([1.25] if pictures is not None else [])]
    canvas, ((*axes,),) = figures.panels(1, columns, width=0.6 + 3.1 * columns, height=3.2, width_ratios=ratios)
    arms, acted = runs.to_draw(dataset, MOST_ARMS), nouns.wording(dataset).acted
    _curves(axes[0], dataset, arms, "S")
    axes[0].set_ylabel("S = |y − x| / |w − x|")
    axes[0].set_title("Feedback after every step", loc="left")
    if more:
        _curves(axes[1], dataset, arms, "injection_ratio")
        _curves(axes[1], dataset, arms, "shift_ratio", linestyle=(0, (4, 2)))
        axes[1].set_ylabel(f"{acted} path / clean path")
        axes[1].set_title("Injections where the error is", loc="left")
    if pictures is not None:
        _rows(axes[-1], pictures)
    figures.letters(np.array(axes))
    note = "Lines: geometric means with 95% bands over starts. Grey: within the margins of the rule."
    if more:
        note += (
            " In b, solid: size of the injection |G(y) − F(y)| / |G(x) − F(x)|; dashed: shift of the prediction "
            "|d*| / |d|."
        )
    if pictures is not None:
        note += (
            f" Pictures, {pictures.attrs.get('arm', 'first arm')}: the replay has the clean path's injections and the "
            f"clean network; {acted} against replayed is what feedback changes."
        )
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    figures.legend_above(
        canvas, axes[0], heading=heading, note=note + figures.left_out(dataset.sizes["arm"], len(arms))
    )
    return canvas


def _curves(axes: Axes, dataset: xr.Dataset, arms: list[str], name: str, **line: object) -> None:
    axes.set_yscale("log")
    axes.axhspan(1 / MARGIN, MARGIN, color="#ececec", zorder=0)
    axes.axhline(1, color=figures.NULL, linewidth=0.7)
    every = [str(arm) for arm in dataset["arm"].values]
    for arm in arms:
        low, middle, high = (bound.values for bound in runs.bounds(dataset[f"{name}_interval"].sel(arm=arm)))
        label = arm if not line else "_"
        figures.band(
            axes, dataset["step"].values, low, middle, high, color=figures.colour(arm, every), label=label, **line
        )
    figures.progress_axis(axes, dataset.sizes["step"])
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, 0.7), max(top, 1.45))
    figures.log_axis(axes)


def _rows(axes: Axes, pictures: xr.DataArray) -> None:
    """One row per path, one column per sample."""
    pixels = pictures.transpose("picture", "image_y", "shown", "image_x", "rgb").values
    rows, height, columns, width, _ = pixels.shape
    axes.imshow(pixels.reshape(rows * height, columns * width, 3), interpolation="nearest", aspect="equal")
    axes.set_yticks([(row + 0.5) * height for row in range(rows)], [str(name) for name in pictures["picture"].values])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    for row in range(1, rows):
        axes.axhline(row * height - 0.5, color="white", linewidth=2)
    for column in range(1, columns):
        axes.axvline(column * width - 0.5, color="white", linewidth=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("The same samples", loc="left")
