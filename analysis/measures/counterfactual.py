"""What would have happened: the final error of arms that act only in a window, all but a window, or only in part.

Each arm is compared with the whole intervention it is a part of. Windows say when it matters, prefixes add up to the
whole by telescoping, doses show saturation. The gain of single steps is `impulse`; nothing here is a verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.common import nouns, runs, spectrum
from analysis.figures import style as figures
from analysis.measure import shipped

FINAL = "final error (sd of clean images)"
KINDS = ("whole", "prefix", "suffix", "window", "all but", "dose")


@shipped
def counterfactual(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Final error of every intervened arm beside that of the whole intervention: (arm, sample).

    Coordinates of `arm`: `mask` (its spec without `steps`, `pause` and `strength`), `kind` (whole, prefix, suffix,
    window, all but, dose), `start` and `stop` of its window (of "all but": the window left out), `strength`.
    `final`: |delta_final| / sqrt(d lam), as the raw error of `growth`.
    `of_whole`: its ratio to the whole one's; `along`: <delta, delta_whole> / |delta_whole|^2, the signed part of
    the whole that the arm brings about, so tiling windows sum to 1 where errors only add. `step_along` (prefixes):
    what the steps since the next shorter prefix add, telescoping to the longest prefix exactly. `slope` (doses): d
    log final / d log strength between this dose and the next larger, 1 where small doses act linearly, below where
    they saturate. NaN where the mask was not run as a whole. `final_interval`, `of_whole_interval` and `along_interval`
    are medians with BCa limits along `bound`. attrs["telescoping"]: the largest relative difference between the longest
    prefix, where it covers the whole run, and the whole mask; rounding alone. Raises RunError for a run of whole
    masks only. Source: docs/science.md, "Counterfactual runs".
    """
    run = runs.complete(run)
    delta = runs.need(run, "trajectory/delta", "norms,latents")
    arms, steps = runs.arms(run), delta.sizes["step"]
    labels = _labels(arms, steps)
    if set(labels["kind"]) <= {"whole"}:
        mask = arms[0].mask if arms else "R4S32"
        raise runs.RunError(
            "every arm acts on the whole run: add windows or doses such as "
            f"--mask {runs.narrowed(mask, 'steps=0.0:0.5')} --mask {runs.narrowed(mask, 'strength=0.1')}"
        )
    last = runs.plain(delta.sel(arm=[arm.name for arm in arms]).isel(step=-1, drop=True).astype(np.float64).compute())
    variance = spectrum.mean_variance(runs.get(run, "trajectory/latent").isel(step=-1, drop=True)).compute()
    norm = spectrum.norm(last)
    result = xr.Dataset({"final": norm / np.sqrt(spectrum.elements(delta) * variance)})
    result = result.assign_coords({name: ("arm", values) for name, values in labels.items()})
    beside, telescoping = _beside_whole(last, norm, labels)
    result.update(beside)
    result["step_along"] = _step_along(result)
    result["slope"] = _dose_slope(result)
    for name in ("final", "of_whole", "along"):
        interval = runs.summary(result[name], "median", confidence=confidence, seed=seed)
        result[f"{name}_interval"] = interval.reset_coords(drop=True)
    result = runs.with_arms(result, run)
    result.attrs = {
        "title": runs.title(run), "samples": result.sizes["sample"], "steps": steps, "confidence": confidence,
        "telescoping": telescoping,
    }  # fmt: skip
    return result


def _labels(arms: list[runs.Arm], steps: int) -> dict[str, list]:
    """Coordinates of the arms: mask, kind, start, stop, strength. An arm with a pause is described by its pause."""
    labels: dict[str, list] = {name: [] for name in ("mask", "kind", "start", "stop", "strength")}
    for arm in arms:
        window = arm.pause if arm.paused else arm.window
        row = (arm.mask, _kind(arm, steps), window.start, window.stop, arm.strength)
        for name, value in zip(labels, row, strict=True):
            labels[name].append(value)
    return labels


def _kind(arm: runs.Arm, steps: int) -> str:
    """Which of `KINDS` an arm is, of a run with that many steps."""
    if arm.paused:
        return "all but"
    if arm.whole:
        return "whole" if arm.strength == 1 else "dose"
    if not arm.window.start:
        return "prefix"
    return "window" if arm.window.stop < steps else "suffix"


def _beside_whole(last: xr.DataArray, norm: xr.DataArray, labels: dict[str, list]) -> tuple[xr.Dataset, float]:
    """`of_whole` and `along` of every arm, and the telescoping gap."""
    of_whole, along, gap = norm * np.nan, norm * np.nan, np.nan
    kinds, masks, stops = labels["kind"], labels["mask"], labels["stop"]
    for i, (kind, mask) in enumerate(zip(kinds, masks, strict=True)):
        if kind != "whole":
            continue
        energy = (norm[i] ** 2).where(norm[i] > 0)
        for j in np.flatnonzero([other == mask for other in masks]):
            of_whole[j] = norm[j] / np.sqrt(energy)
            along[j] = (last[j] * last[i]).sum(spectrum.STATE, skipna=False) / energy
            if kinds[j] == "prefix" and stops[j] == stops[i]:
                difference = np.sqrt(((last[j] - last[i]) ** 2).sum(spectrum.STATE, skipna=False) / energy)
                gap = float(np.fmax(gap, float(difference.max())))  # NaN: no whole mask to compare with
    return xr.Dataset({"of_whole": of_whole, "along": along}), gap


def _step_along(result: xr.Dataset) -> xr.DataArray:
    """Differences of `along` between consecutive prefixes of a mask."""
    steps = result["along"] * np.nan
    for chosen in _groups(result, "prefix", "stop"):
        values = result["along"].isel(arm=chosen)
        steps[chosen] = np.diff(values.values, axis=0, prepend=0.0)
    return steps


def _dose_slope(result: xr.Dataset) -> xr.DataArray:
    """Log-log slope between each dose of a mask and the next larger one (the whole mask counts as dose 1)."""
    slope = result["final"] * np.nan
    for chosen in _groups(result, "dose", "strength", "whole"):
        dose, final = np.log(result["strength"].values[chosen]), np.log(result["final"].values[chosen])
        slope[chosen[:-1]] = np.diff(final, axis=0) / np.diff(dose)[:, None]
    return slope


def _groups(result: xr.Dataset, kind: str, order: str, also: str = "") -> list[np.ndarray]:
    """Positions of the arms of each mask that are of a kind, sorted by a coordinate; masks without any are left
    out.
    """
    kinds, masks = result["kind"].values, result["mask"].values
    groups = []
    for mask in dict.fromkeys(masks):
        chosen = np.flatnonzero((masks == mask) & np.isin(kinds, [kind, also]))
        if (kinds[chosen] == kind).any():
            groups.append(chosen[np.argsort(result[order].values[chosen], kind="stable")])
    return groups


# --- presentation ---


@counterfactual.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm: what it is a part of, its final error, and how much of the whole it brings about."""
    rows = []
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        row: dict[str, object] = {"arm": str(arm), "kind": str(at["kind"].values)}
        low, final, high = (float(bound) for bound in runs.bounds(at["final_interval"]))
        row |= {"final error": final, "low": low, "high": high}
        row |= {"of whole": float(_estimate(at, "of_whole")), "along whole": float(_estimate(at, "along"))}
        row |= {"added by its steps": _middle(at["step_along"]), "dose slope": _middle(at["slope"])}
        rows.append(row)
    return pd.DataFrame(rows)


def _estimate(dataset: xr.Dataset, name: str) -> xr.DataArray:
    return runs.bounds(dataset[f"{name}_interval"])[1]


def _middle(values: xr.DataArray) -> float:
    present = values.values[np.isfinite(values.values)]
    return float(np.median(present)) if present.size else np.nan


@counterfactual.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Which part of the run brings about most of each arm's final error, and whether small doses act linearly."""
    texts, called = [], nouns.wording(dataset)
    for mask in dict.fromkeys(dataset["mask"].values):
        at = dataset.isel(arm=np.flatnonzero(dataset["mask"].values == mask))
        parts = _partial(at)
        if parts.sizes["arm"] and _estimate(parts, "of_whole").notnull().any():
            # the most per step that it acts on, or long windows would always win
            rate = _estimate(parts, "of_whole") / (parts["stop"] - parts["start"])
            best = parts.isel(arm=int(np.argmax(rate.fillna(-1).values)))
            texts.append(
                f"{mask}: per {called.acted} step, steps {int(best['start'])}:{int(best['stop'])} alone matter most "
                f"and leave {float(_estimate(best, 'of_whole')):.0%} of the whole {called.noun}'s final error"
            )
        doses = at.isel(arm=np.flatnonzero(at["kind"].values == "dose")).sortby("strength")
        if doses.sizes["arm"] and doses["slope"].notnull().any():
            first = doses.isel(arm=0)
            texts.append(
                f"{mask}: at dose {float(first['strength']):g} the final error grows as the dose to the power "
                f"{_middle(first['slope']):.2f}"
            )
        gaps = at.isel(arm=np.flatnonzero(at["kind"].values == "all but"))
        if gaps.sizes["arm"] and _estimate(gaps, "of_whole").notnull().any():
            best = gaps.isel(arm=int(np.argmin(_estimate(gaps, "of_whole").fillna(np.inf).values)))
            texts.append(
                f"{mask}: leaving out steps {int(best['start'])}:{int(best['stop'])} spares most and leaves "
                f"{float(_estimate(best, 'of_whole')):.0%} of the whole {called.noun}'s final error"
            )
    text = "; ".join(texts) or f"no {called.noun} was also run as a whole, so there is nothing to compare with"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {text}."


def _partial(dataset: xr.Dataset) -> xr.Dataset:
    """The arms that act on a part of the run."""
    inside = dataset["stop"].values - dataset["start"].values < dataset.attrs["steps"]
    return dataset.isel(arm=np.flatnonzero(inside & np.isin(dataset["kind"].values, ["window", "prefix", "suffix"])))


@counterfactual.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Windows, all but windows, prefixes and doses, as far as the run has them, one panel each."""
    kinds = set(dataset["kind"].values)
    growing = any(chosen.size > 1 for chosen in _groups(dataset, "prefix", "stop"))  # one prefix is a window
    windows = kinds & {"window", "suffix"} or ("prefix" in kinds and not growing)
    draw: list[Callable] = [_windows] if windows else []
    draw += [_all_but] if "all but" in kinds else []
    draw += [_prefixes] if growing else []
    draw += [_doses] if "dose" in kinds else []
    canvas, axes = figures.panels(1, len(draw), width=max(5.0, 3.6 * len(draw)), height=3.0)
    masks = list(dict.fromkeys([*dataset["mask"].values[dataset["kind"].values == "whole"], *dataset["mask"].values]))
    for ax, panel in zip(axes[0], draw, strict=True):
        panel(ax, dataset, masks)
    _share_error(axes[0])
    figures.letters(axes)
    samples = dataset.attrs["samples"]
    heading = f"{dataset.attrs['title']} · {samples} samples · median, {dataset.attrs['confidence']:.0%} BCa"
    note = "Final error: root mean square over the picture, in standard deviations of clean images." + (
        f" A bar spans the {nouns.wording(dataset).acted} (or spared) steps at the error they leave, its box is the "
        "BCa interval."
        if {_windows, _all_but} & set(draw)
        else ""
    )
    note += figures.few(samples)
    figures.legend_above(canvas, *axes[0], heading=heading, note=note)
    return canvas


def _share_error(axes: np.ndarray) -> None:
    """One scale for all panels that show the final error."""
    same = [ax for ax in axes if ax.get_ylabel() == FINAL]
    low, high = (pick(ax.get_ylim()[end] for ax in same) for end, pick in ((0, min), (1, max))) if same else (0, 1)
    for ax in same:
        ax.set_ylim(low, high)
        figures.log_axis(ax)


def _windows(ax: Axes, dataset: xr.Dataset, masks: list[str]) -> None:
    _spans(ax, dataset, _partial(dataset), masks)
    acted = nouns.wording(dataset).acted
    ax.set_title(f"{acted.capitalize()} only in a window", loc="left")
    ax.set_xlabel(f"{acted} steps (noise → image)")


def _all_but(ax: Axes, dataset: xr.Dataset, masks: list[str]) -> None:
    _spans(ax, dataset, dataset.isel(arm=np.flatnonzero(dataset["kind"].values == "all but")), masks)
    ax.set_title(f"{nouns.wording(dataset).acted.capitalize()} everywhere but in a window", loc="left")
    ax.set_xlabel("steps left clean (noise → image)")


def _spans(ax: Axes, dataset: xr.Dataset, parts: xr.Dataset, masks: list[str]) -> None:
    """The final error of each of these arms over its window, beside that of the whole intervention."""
    for arm in range(parts.sizes["arm"]):
        at = parts.isel(arm=arm)
        mask = str(at["mask"].values)
        color, span = figures.colour(mask, masks), [float(at["start"]), float(at["stop"])]
        low, middle, high = ([float(bound)] * 2 for bound in runs.bounds(at["final_interval"]))
        ax.fill_between(span, low, high, color=color, alpha=0.18, linewidth=0)
        label = f"{mask}, in part" if mask not in parts["mask"].values[:arm] else None
        ax.plot(span, middle, color=color, linewidth=2, solid_capstyle="butt", label=label)
    for mask in masks:
        is_whole = (dataset["mask"].values == mask) & (dataset["kind"].values == "whole")
        for value in _estimate(dataset, "final").values[is_whole]:
            color = figures.colour(mask, masks)
            ax.axhline(value, color=color, linestyle=figures.DASHES, linewidth=1, label=f"{mask}, whole run")
            ax.annotate(mask, (1, value), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                        ha="right", fontsize=6, color=color)  # fmt: skip
    ax.set_xlim(0, dataset.attrs["steps"])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylabel(FINAL)
    figures.log_axis(ax)


def _prefixes(ax: Axes, dataset: xr.Dataset, masks: list[str]) -> None:
    for chosen in _groups(dataset, "prefix", "stop"):
        at = dataset.isel(arm=chosen)
        mask = str(at["mask"].values[0])
        values = [np.concatenate([[0.0], bound.values]) for bound in runs.bounds(at["along_interval"])]
        x = np.concatenate([[0], at["stop"].values])
        look: dict[str, Any] = {"marker": "o", "markersize": 3} | figures.look(mask, masks, every=None)
        figures.band(ax, x, *values, label=f"{mask}, first steps only", **look)
    ax.axhline(1, color="black", linewidth=0.7)
    acted = nouns.wording(dataset).acted
    ax.set_title(f"{acted.capitalize()} from the start, then clean", loc="left")
    ax.set_xlabel(f"number of {acted} steps")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylabel("part of the whole error")


def _doses(ax: Axes, dataset: xr.Dataset, masks: list[str]) -> None:
    for chosen in _groups(dataset, "dose", "strength", "whole"):
        at = dataset.isel(arm=chosen)
        mask, x = str(at["mask"].values[0]), at["strength"].values
        values = [bound.values for bound in runs.bounds(at["final_interval"])]
        look: dict[str, Any] = {"marker": "o", "markersize": 3} | figures.look(mask, masks, every=None)
        figures.band(ax, x, *values, label=f"{mask}, dose", **look)
        ax.plot(x, values[1][0] * x / x[0], color="black", linewidth=0.7, linestyle=":")
    ax.set_title(f"Dose of the {nouns.wording(dataset).noun} (dotted: linear)", loc="left")
    ax.set_xlabel("strength")
    ax.set_ylabel(FINAL)
    figures.log_axis(ax, "x")
    figures.log_axis(ax)
