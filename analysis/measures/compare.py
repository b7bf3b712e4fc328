"""Runs that differ in one setting (the sampler, the guidance, the mask seed), side by side and paired by sample.

What a setting does to the final error and to its amplification. Numbers of steps are `steps`, and nothing here is a
verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import amplification as amp
from analysis.common import runs, spectrum
from analysis.figures import style as figures

SETTINGS = ("model", "checkpoint", "sampler", "steps", "guidance", "mask_seed", "dtype")
QUANTITIES = {
    "final_error": "final error / spread",
    "amplification": "amplification A",
    "coherence": "coherence",
}


def compare(
    several: Iterable[xr.DataTree] | Mapping[object, xr.DataTree], *, confidence: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """Final error, amplification A and coherence of every shared arm and sample: (run, arm, sample).

    `run` names each run by the settings in which they differ. `final_error`: |delta_final| / sqrt(sum over elements of
    the variance of the clean final states over the shared samples); `amplification` and `coherence` as in
    `amplification`, NaN where the null was not recorded. All runs are held against one kind of null, attrs["null"]:
    model-free where every sampler is stochastic, else gaussian. `*_point`, `*_low`, `*_high` are geometric means with
    BCa limits, `*_ratio_*` those of each run over the first, sample by sample (pairs are equal in seed and class or
    prompt).
    Raises runs.RunError for one run, runs that differ in nothing, or no shared arm or sample.
    """
    trees = amp.as_list(several)
    if len(trees) < 2:
        raise runs.RunError("give two or more runs to compare, as `trace counterfactual sampler` makes them")
    kind = "model-free" if all(runs.stochastic(run) for run in trees) else "gaussian"
    parts = [_measure(run, kind) for run in amp.shared(trees)]
    result = xr.concat(parts, dim=pd.Index(names(trees), name="run"), join="inner", combine_attrs="drop")
    if 0 in (result.sizes["arm"], result.sizes["pair"]):
        raise runs.RunError(amp.NOTHING_SHARED)
    result = result.swap_dims(pair="sample")
    for name in QUANTITIES:
        ratio = result[name] / result[name].isel(run=0, drop=True)
        for title, values in ((name, result[name]), (f"{name}_ratio", ratio)):
            found = runs.geometric(values, confidence=confidence, seed=seed)
            result.update(found.rename({part: f"{title}_{part}" for part in found.data_vars}))
    result.attrs = {
        "title": _title(trees), "samples": result.sizes["sample"], "confidence": confidence, "null": kind,
        "guided": any(runs.configuration(run).get("guidance", 1) != 1 for run in trees),
    }  # fmt: skip
    return result


def names(trees: list[xr.DataTree]) -> list[str]:
    """What each run is called: its values of the settings in which the runs differ."""
    settings = [runs.configuration(run) for run in trees]
    differing = [name for name in SETTINGS if len({str(config.get(name)) for config in settings}) > 1]
    found = [", ".join(_word(name, config.get(name)) for name in differing) for config in settings]
    if len(set(found)) < len(found):
        raise runs.RunError(
            f"two of these runs have the same {', '.join(SETTINGS)}: there is nothing to compare between them"
        )
    return found


def _word(name: str, value: object) -> str:
    if name == "checkpoint" and isinstance(value, dict):
        return str(value.get("id"))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if name == "steps":
        return f"{text} steps"
    return text if name in ("model", "sampler", "dtype") else f"{name.replace('_', ' ')} {text}"


def _title(trees: list[xr.DataTree]) -> str:
    """What the runs have in common."""
    settings = [runs.configuration(run) for run in trees]
    same = [name for name in SETTINGS if len({str(config.get(name)) for config in settings}) == 1]
    shown = [name for name in same if name not in ("checkpoint", "dtype", "mask_seed") and name in settings[0]]
    return ", ".join(_word(name, settings[0][name]) for name in shown)


def _measure(run: xr.DataTree, kind: str) -> xr.Dataset:
    """One run: (arm, pair)."""
    final = amp.clean_final(run)
    size = int(np.prod([final.sizes[name] for name in spectrum.STATE]))
    spread = float(np.sqrt(size * spectrum.mean_variance(final).compute()))
    try:
        found = amp.amplification(run, kind)
    except runs.RunError:  # no null: the error alone
        delta = amp.final_delta(run).sel(arm=runs.arms(run)).astype(np.float64)
        actual = ((delta**2).sum(spectrum.STATE) ** 0.5).compute().reset_coords(drop=True)
        found = xr.Dataset({"actual": actual, "log_amplification": actual * np.nan, "coherence": actual * np.nan})
        found = found.assign_coords(pair=("sample", amp.identities(run)))
    result = found[["coherence"]].assign(
        final_error=found["actual"] / spread, amplification=np.exp(found["log_amplification"])
    )
    return result.swap_dims(sample="pair").drop_vars("sample", errors="ignore")


# --- presentation ---


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and run: geometric means with their intervals, and the ratio of the final error to the first."""
    rows = []
    for arm in dataset["arm"].values:
        for run in dataset["run"].values:
            at = dataset.sel(arm=arm, run=run)
            row: dict[str, object] = {"arm": str(arm), "run": str(run)}
            for name, label in (("final_error", "final error"), ("amplification", "A"), ("final_error_ratio", "ratio")):
                row |= {label: float(at[f"{name}_point"])}
                row |= {f"{label} {part}": float(at[f"{name}_{part}"]) for part in ("low", "high")}
            rows.append(row | {"coherence": float(at["coherence_point"])})
    return pd.DataFrame(rows)


def sentence(dataset: xr.Dataset) -> str:
    """How the final error and A of every other run relate to those of the first, with intervals."""
    first, *others = [str(run) for run in dataset["run"].values]
    texts = []
    for arm in dataset["arm"].values:
        told = []
        for run in others:
            at = dataset.sel(arm=arm, run=run)
            told.append(f"{_times(at, 'final_error_ratio')} with {run}")
            if np.isfinite(at["amplification_ratio_point"]):
                told[-1] += f" (its amplification {_times(at, 'amplification_ratio')})"
        texts.append(f"{arm}: against {first}, the final error is {', '.join(told)}")
    guided = " Guidance other than 1 breaks the argument for the model-free null." if dataset.attrs["guided"] else ""
    limits = f"{dataset.attrs['confidence']:.0%} BCa intervals"
    if np.isfinite(dataset["amplification"]).any():
        limits += f", A against the {dataset.attrs['null']} null"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} paired samples, {limits}. {'; '.join(texts)}.{guided}"


def _times(at: xr.Dataset, name: str) -> str:
    point, low, high = (float(at[f"{name}_{part}"]) for part in ("point", "low", "high"))
    limits = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else ""
    return f"{point:.3g}{limits} times as large"


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel per quantity: samples, joined where they are paired, and the geometric mean with its interval."""
    shown = {name: label for name, label in QUANTITIES.items() if np.isfinite(dataset[f"{name}_point"]).any()}
    canvas, axes = figures.panels(1, len(shown), width=2.6 * len(shown) + 0.6, height=2.9)
    for ax, (name, label) in zip(axes[0], shown.items(), strict=True):
        _panel(ax, dataset, name, label)
    figures.letters(axes)
    heading = (
        f"{dataset.attrs['title']} · {dataset.attrs['samples']} paired samples · geometric mean, "
        f"{dataset.attrs['confidence']:.0%} BCa"
    )
    figures.legend_above(canvas, *axes[0], heading=heading)
    return canvas


def _panel(ax: Axes, dataset: xr.Dataset, name: str, label: str) -> None:
    arms = [str(arm) for arm in dataset["arm"].values]
    place = np.arange(dataset.sizes["run"], dtype=float)
    for index, arm in enumerate(figures.few(arms, 4)):
        at, color = dataset.sel(arm=arm), figures.colour(arm, arms)
        x = place + 0.12 * (index - (min(len(arms), 4) - 1) / 2)
        ax.plot(x, at[name].transpose("run", "sample").values, color=color, alpha=0.15, linewidth=0.5)
        low, point, high = (at[f"{name}_{part}"].values for part in ("low", "point", "high"))
        ax.errorbar(
            x, point, [point - low, high - point], fmt="o", color=color, markersize=4, capsize=2, label=arm, zorder=3
        )
    if name == "amplification":
        ax.axhline(1, color=figures.NULL, linewidth=0.9, linestyle=(0, (4, 2)))
    labels = [str(run) for run in dataset["run"].values]
    crowded = sum(map(len, labels)) > 24
    ax.set_xticks(place, labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    ax.set_xlim(-0.5, len(place) - 0.5)
    ax.set_title(label[0].upper() + label[1:], loc="left")
    figures.log_axis(ax)
