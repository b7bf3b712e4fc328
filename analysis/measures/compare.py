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
from analysis.common import pairing, runs, spectrum
from analysis.figures import style as figures
from analysis.measure import shipped

SETTINGS = ("model", "checkpoint", "sampler", "steps", "guidance", "mask_seed", "dtype")
MOST_ARMS = 4  # drawn
QUANTITIES = {
    "final_error": "final error / spread",
    "amplification": "amplification A",
    "coherence": "coherence",
}
MEANINGS = {
    "final_error": " Final error: in units of the spread of clean images.",
    "amplification": " A: final error over its additive null, 1 (dashed) where errors only add up.",
    "coherence": " Coherence: the null over the sum of the sizes of its steps.",
}


@shipped
def compare(
    several: Iterable[xr.DataTree] | Mapping[object, xr.DataTree], *, confidence: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """Final error, amplification A and coherence of every shared arm and sample: (run, arm, sample).

    `run` names each run by the settings in which they differ. `final_error`: |delta_final| / sqrt(sum over elements of
    the variance of the clean final states over the shared samples); `amplification` and `coherence` as in
    `amplification`, NaN where the null was not recorded. All runs are held against one kind of null, attrs["null"]:
    model-free where every sampler is stochastic, else gaussian. `*_interval` are geometric means with BCa limits along
    `bound`, `*_ratio_interval` those of each run over the first, sample by sample (pairs are equal in seed and class or
    prompt).
    Raises RunError for one run, runs that differ in nothing, or no shared arm or sample.
    """
    trees = pairing.as_list(several)
    if len(trees) < 2:
        raise runs.RunError("give two or more runs to compare, as `trace counterfactual sampler` makes them")
    kind = "model-free" if all(runs.stochastic(run) for run in trees) else "gaussian"
    parts = [_measure(run, kind) for run in pairing.shared(trees)]
    result = xr.concat(parts, dim=pd.Index(names(trees), name="run"), join="inner", combine_attrs="drop")
    if 0 in (result.sizes["arm"], result.sizes["pair"]):
        raise runs.RunError(pairing.NOTHING_SHARED)
    result = result.swap_dims(pair="sample")
    for name in QUANTITIES:
        ratio = result[name] / result[name].isel(run=0, drop=True)
        for title, values in ((name, result[name]), (f"{name}_ratio", ratio)):
            result[f"{title}_interval"] = runs.geometric(values, confidence=confidence, seed=seed)
    result = runs.with_arms(result, trees[0], windows=False)
    result.attrs = {
        "title": _title(trees), "samples": result.sizes["sample"], "confidence": confidence, "null": kind,
        "guided": any(runs.configuration(run).get("guidance", 1) != 1 for run in trees),
    }  # fmt: skip
    return result


def names(trees: list[xr.DataTree]) -> list[str]:
    """What each run is called: its values of the settings in which the runs differ."""
    settings = [runs.configuration(run) for run in trees]
    differing = [name for name in SETTINGS if len({str(config.get(name)) for config in settings}) > 1]
    called = [", ".join(word(name, config.get(name)) for name in differing) for config in settings]
    if len(set(called)) < len(called):
        raise runs.RunError(
            f"two of these runs have the same {', '.join(SETTINGS)}: there is nothing to compare between them"
        )
    return called


def word(name: str, value: object) -> str:
    """A setting and its value, as a run is called by: "20 steps", "guidance 7"."""
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
    return ", ".join(word(name, settings[0][name]) for name in shown)


def _measure(run: xr.DataTree, kind: str) -> xr.Dataset:
    """One run: (arm, pair)."""
    final = runs.clean_final(run)
    spread = float(np.sqrt(spectrum.elements(final) * spectrum.mean_variance(final).compute()))
    try:
        parts = amp.amplification(run, kind)
        parts = parts.drop_vars(runs.arm_coordinates(run))  # windows differ between numbers of steps
    except runs.RunError:  # no null: the error alone
        actual = spectrum.norm(runs.final_delta(run).sel(arm=runs.names(run))).compute()
        parts = xr.Dataset({"actual": actual, "log_amplification": actual * np.nan, "coherence": actual * np.nan})
        parts = parts.assign_coords(pair=("sample", pairing.identities(run)))
    result = parts[["coherence"]].assign(
        final_error=parts["actual"] / spread, amplification=np.exp(parts["log_amplification"])
    )
    return result.swap_dims(sample="pair").drop_vars("sample", errors="ignore")


# --- presentation ---


@compare.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and run: geometric means with their intervals, and the ratio of the final error to the first."""
    rows = []
    for arm in dataset["arm"].values:
        for run in dataset["run"].values:
            at = dataset.sel(arm=arm, run=run)
            row: dict[str, object] = {"arm": str(arm), "run": str(run)}
            for name, label in (("final_error", "final error"), ("amplification", "A"), ("final_error_ratio", "ratio")):
                low, middle, high = (float(bound) for bound in runs.bounds(at[f"{name}_interval"]))
                row |= {label: middle, f"{label} low": low, f"{label} high": high}
            rows.append(row | {"coherence": float(runs.bounds(at["coherence_interval"])[1])})
    return pd.DataFrame(rows)


@compare.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """How the final error and A of every other run relate to those of the first, with intervals."""
    first, *others = [str(run) for run in dataset["run"].values]
    texts = []
    for arm in dataset["arm"].values:
        clauses = []
        for run in others:
            at = dataset.sel(arm=arm, run=run)
            clauses.append(f"{_times(at, 'final_error_ratio')} with {run}")
            if np.isfinite(runs.bounds(at["amplification_ratio_interval"])[1]):
                clauses[-1] += f" (its amplification {_times(at, 'amplification_ratio')})"
        texts.append(f"{arm}: against {first}, the final error is {', '.join(clauses)}")
    guided = " Guidance other than 1 breaks the argument for the model-free null." if dataset.attrs["guided"] else ""
    limits = f"{dataset.attrs['confidence']:.0%} BCa intervals"
    if np.isfinite(dataset["amplification"]).any():
        limits += f", A against the {dataset.attrs['null']} null"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} paired samples, {limits}. {'; '.join(texts)}.{guided}"


def _times(at: xr.Dataset, name: str) -> str:
    low, middle, high = (float(bound) for bound in runs.bounds(at[f"{name}_interval"]))
    limits = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else ""
    return f"{middle:.3g}{limits} times as large"


@compare.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel per quantity: samples, joined where they are paired, and the geometric mean with its interval."""
    shown = {
        name: label
        for name, label in QUANTITIES.items()
        if np.isfinite(runs.bounds(dataset[f"{name}_interval"])[1]).any()
    }
    canvas, axes = figures.panels(1, len(shown), width=max(4.2, 2.6 * len(shown) + 0.6), height=2.9)
    arms = runs.to_draw(dataset, MOST_ARMS)
    for ax, (name, label) in zip(axes[0], shown.items(), strict=True):
        _panel(ax, dataset, name, label, arms)
    figures.letters(axes)
    samples = dataset.attrs["samples"]
    heading = f"{dataset.attrs['title']} · {samples} paired samples · geometric mean, "
    heading += f"{dataset.attrs['confidence']:.0%} BCa bars"
    note = "Thin lines join the values of one sample." + "".join(MEANINGS[name] for name in shown)
    note += figures.few(samples) + figures.left_out(dataset.sizes["arm"], len(arms))
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note)
    return canvas


def _panel(ax: Axes, dataset: xr.Dataset, name: str, label: str, arms: list[str]) -> None:
    place = np.arange(dataset.sizes["run"], dtype=float)
    for index, arm in enumerate(arms):
        at, look = dataset.sel(arm=arm), {"marker": "o"} | figures.look(arm, figures.palette(dataset), every=None)
        x = place + 0.12 * (index - (len(arms) - 1) / 2)
        samples = at[name].transpose("run", "sample").values
        ax.plot(x, samples, color=look["color"], alpha=0.2, linewidth=0.5)
        low, middle, high = (bound.transpose("run").values for bound in runs.bounds(at[f"{name}_interval"]))
        bars = look | {"linestyle": "none", "markersize": 4, "capsize": 2, "markevery": None}
        ax.errorbar(x, middle, [middle - low, high - middle], label=arm, zorder=3, **bars)
    if name == "amplification":
        ax.axhline(1, color=figures.NULL, linewidth=0.9, linestyle=figures.DASHES)
    labels = [figures.wrapped(str(run), 14) for run in dataset["run"].values]
    crowded = sum(max(map(len, text.split("\n"))) for text in labels) > 24
    ax.set_xticks(place, labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    ax.set_xlim(-0.5, len(place) - 0.5)
    ax.set_title(label[0].upper() + label[1:], loc="left")
    figures.log_axis(ax)
