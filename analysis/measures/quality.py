"""Metrics of a run's decoded pictures: every arm against the clean pictures of the same samples.

Reads the scores that are kept beside the run (`trace score RUN`); no network is loaded and no picture is looked at.
Metrics are scores of single pictures, distances of each masked picture to its clean twin, or distances of whole sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.common import divergence, runs, set_distances, statistics
from analysis.figures import style as figures
from analysis.measure import Option, measure
from interventions.errors import RunError

BOUNDS = ["low", "estimate", "high"]


@measure(
    "What do metrics of the decoded pictures say of each arm?",
    needs=("images",),
    options=(
        Option("--metric", "metrics", "A metric such as clip-t or lpips; default: all scored.", metavar="METRIC",
               several=True),
    ),
)  # fmt: skip
def quality(run: xr.DataTree, metrics: str | Sequence[str] | None = None, *, seed: int = 0) -> xr.Dataset:
    """Every scored metric of every arm, with 95% BCa intervals over samples.

    `metrics` are names of groups of `/scores` (None: all there are). Of (metric, arm): `value` (bound); `change`
    (bound), arm minus clean paired by sample, where the metric scores a picture by itself; its paired d_z `effect_size`
    and two-sided `p` (exact McNemar for yes/no scores, else paired t), `p_holm` over the intervened arms but the floor.
    Where pictures of the replay were scored: `replayed` (bound), the value of those, and `from_replay` (bound) with
    `p_replay`, masked minus replayed, for the question whether the mask costs more than its clean-path injections.
    `score` (metric, arm, sample) holds the single values, NaN for metrics of whole sets. Samples that are not complete,
    or that a metric has no score of, are left out. Raises RunError where there are no scores, naming what to type.
    """
    if "scores" not in run.children:
        runs.need(run, "images/image", "norms,images")
        raise RunError("the pictures of this run are not scored yet: measure them with `trace score RUN`")
    run = runs.complete(run)
    stored = {name: node.to_dataset() for name, node in run["scores"].children.items()}
    chosen, left_out = chosen_groups(stored, [metrics] if isinstance(metrics, str) else metrics)
    asked = divergence.asked(run).values
    scored = np.logical_and.reduce([_scored(group, asked) for group in chosen.values()])
    if not scored.any():
        raise RunError("no complete sample of this run is scored by all of these metrics: repeat `trace score RUN`")
    chosen = {name: group.isel(sample=np.flatnonzero(scored)) for name, group in chosen.items()}
    parts = [_compared(group, seed) for group in chosen.values()]
    dataset = xr.concat(parts, dim=pd.Index(list(chosen), name="metric"))
    about = {name: group.attrs for name, group in chosen.items()}
    dataset = dataset.assign_coords(
        {key: ("metric", [about[name][key] for name in chosen]) for key in ("title", "kind", "higher_is_better")}
    )
    if "metrics" in run.children:
        dataset = runs.with_arms(dataset, run)
    dataset.attrs = {
        "title": runs.title(run),
        "samples": dataset.sizes["sample"],
        "skipped": json.dumps(left_out),
        "weights": json.dumps({name: about[name].get("weights", "") for name in chosen}),
    }
    return dataset


def chosen_groups(
    stored: dict[str, xr.Dataset], names: Sequence[str] | None
) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """The groups asked for, in that order, or all with values; and of the others why they have none."""
    ordered = sorted(stored, key=lambda name: (stored[name].attrs.get("position", len(stored)), name))
    reasons = {name: str(stored[name].attrs["left_out"]) for name in ordered if "left_out" in stored[name].attrs}
    known = [name for name in ordered if name not in reasons]
    for name in names or ():
        if name in reasons:
            raise RunError(f"--metric {name}: {reasons[name]}")
        if name not in known:
            raise RunError(
                f"--metric {name}: this run is scored by {', '.join(known) or 'nothing'} only; measure the rest with "
                f"`trace score RUN --metric {name}`"
            )
    if names:
        return {name: stored[name] for name in dict.fromkeys(names)}, {}
    if not known:
        raise RunError(
            "this run is scored by no metric; name one that fits, for example `trace score RUN --metric pixels`"
        )
    return {name: stored[name] for name in known}, reasons


def _values(group: xr.Dataset) -> xr.DataArray:
    """Scores (arm, sample), or features (arm, sample, feature), in memory."""
    return group["features" if "features" in group else "score"].transpose("arm", "sample", ...).load()


def _scored(group: xr.Dataset, asked: np.ndarray) -> np.ndarray:
    """Bool [sample]: every arm that is run on it, bool [arm, sample], has its value."""
    return (_there(_values(group)) | ~asked).all(axis=0)


def _there(values: xr.DataArray) -> np.ndarray:
    """Bool [arm, sample]: where there is a value; of the floor on the few samples only that it is run on."""
    return values.notnull().all([dim for dim in values.dims if dim not in ("arm", "sample")]).values


def _compared(group: xr.Dataset, seed: int) -> xr.Dataset:
    """One metric's dataset: value, and for scores of single pictures the change from clean.

    The floor's are those of the samples that it is run on.
    """
    values, arms = _values(group), [str(arm) for arm in group["arm"].values]
    clean = arms.index(runs.CLEAN)
    score = np.full(values.shape[:2], np.nan)
    change = np.full((len(arms), 3), np.nan)
    effect, p = np.full(len(arms), np.nan), np.full(len(arms), np.nan)
    is_set, value = "features" in group, np.full((len(arms), 3), np.nan)
    if not is_set:
        score = values.values
    for k, (arm, there) in enumerate(zip(arms, _there(values), strict=True)):
        if not there.any():
            continue
        own, twin = values.values[k, there], values.values[clean, there]
        value[k] = _set_distance(group, twin, own, seed) if is_set else _bounds(own, seed)
        if group.attrs["kind"] == "score" and arm != runs.CLEAN:
            change[k], effect[k] = _bounds(own - twin, seed), statistics.effect_size(own, twin)
            if arm != runs.FULL:
                p[k] = paired_p(own, twin)
    return xr.Dataset(
        {
            "value": (("arm", "bound"), value),
            "change": (("arm", "bound"), change),
            "effect_size": ("arm", effect),
            "p": ("arm", p),
            "p_holm": ("arm", statistics.holm(p)),
            "score": (("arm", "sample"), score),
            **_of_replay(group, values, seed),
        },
        coords={"arm": arms, "bound": BOUNDS, "sample": group["sample"].values},
    )


def _of_replay(group: xr.Dataset, values: xr.DataArray, seed: int) -> dict[str, tuple]:
    """Value of each arm's replay, and masked minus replayed; empty where no replay was scored."""
    name = f"replay_{values.name}"
    if name not in group:
        return {}
    replays = group[name].transpose("arm", "sample", ...).load()
    arms, clean = group["arm"].values.tolist(), values.sel(arm=runs.CLEAN).values
    replayed, change, p = np.full((len(arms), 3), np.nan), np.full((len(arms), 3), np.nan), np.full(len(arms), np.nan)
    for k, (masked, replay) in enumerate(zip(values.values, replays.values, strict=True)):
        if np.isnan(replay).any():
            continue
        is_set = values.name == "features"
        replayed[k] = _set_distance(group, clean, replay, seed) if is_set else _bounds(replay, seed)
        if group.attrs["kind"] == "score":
            change[k], p[k] = _bounds(masked - replay, seed), paired_p(masked, replay)
    return {"replayed": (("arm", "bound"), replayed), "from_replay": (("arm", "bound"), change), "p_replay": ("arm", p)}


def _bounds(values: np.ndarray, seed: int) -> np.ndarray:
    interval = statistics.bca(values, seed=seed)
    return np.array([interval.low, interval.estimate, interval.high])


def _set_distance(group: xr.Dataset, clean: np.ndarray, masked: np.ndarray, seed: int) -> np.ndarray:
    name = group.attrs.get("distance")
    if name not in set_distances.DISTANCES:
        raise RunError(
            f"the scores {group.attrs.get('name')!r} are features to be compared by {name!r}, which is none of "
            f"{', '.join(set_distances.DISTANCES)}"
        )
    return set_distances.distance(name, clean, masked, seed=seed)


def paired_p(masked: np.ndarray, clean: np.ndarray) -> float:
    """Two-sided p of "no difference", paired: exact McNemar where all values are 0 or 1, else the t test."""
    if np.isin(masked, (0, 1)).all() and np.isin(clean, (0, 1)).all():
        gained, lost = int((masked > clean).sum()), int((masked < clean).sum())
        return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference = masked - clean
    return float(min(1.0, 2 * min(statistics.p_above(difference), statistics.p_below(difference))))


# --- presentation ---


@quality.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per metric and intervened arm: clean value, value, change from clean with limits, d_z, Holm's p."""
    rows = []
    for metric in dataset["metric"].values:
        at = dataset.sel(metric=metric)
        scored = str(at["kind"].values) == "score"
        for arm in dataset["arm"].values:
            if arm == runs.CLEAN:
                continue
            here = at.sel(arm=arm)
            shown = here["change"] if scored else here["value"]
            row: dict[str, str | float] = {"metric": str(metric), "arm": str(arm)}
            row["clean"] = float(at["value"].sel(arm=runs.CLEAN, bound="estimate"))
            row["value"] = float(here["value"].sel(bound="estimate"))
            row["compared"] = "minus clean" if scored else "to clean"
            row |= {name: float(shown.sel(bound=name)) for name in BOUNDS}
            row |= {"d_z": float(here["effect_size"]), "p (Holm)": float(here["p_holm"])}
            if "replayed" in dataset:
                row |= {
                    "replayed": float(here["replayed"].sel(bound="estimate")),
                    "p, replayed": float(here["p_replay"]),
                }
            rows.append(row)
    return pd.DataFrame(rows)


@quality.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """For every arm but the floor, what each metric says; no claim beyond the intervals."""
    texts = []
    for arm in (str(name) for name in dataset["arm"].values if name not in (runs.CLEAN, runs.FULL)):
        clauses = [
            _clause(dataset.sel(metric=metric, arm=arm), dataset.sel(metric=metric, arm=runs.CLEAN))
            for metric in dataset["metric"].values
        ]
        texts.append(f"{arm}: {'; '.join(clauses)}")
    left_out = "; ".join(f"{name} ({why})" for name, why in json.loads(dataset.attrs["skipped"]).items())
    ending = f" Left out: {left_out}." if left_out else ""
    shown = ". ".join(texts) if texts else "no arm but the clean one"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {shown}.{ending}"


def _clause(here: xr.Dataset, clean: xr.Dataset) -> str:
    low, point, high = (float(v) for v in here["value"].values)
    text = f"{here['title'].item()} {point:.3g}"
    if str(here["kind"].values) != "score":
        return text + (f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else "") + _replayed(here)
    low, change, high = (float(v) for v in here["change"].values)
    reference = float(clean["value"].sel(bound="estimate"))
    return f"{text} against {reference:.3g} clean ({change:+.3g} [{low:.3g}, {high:.3g}]){_replayed(here)}"


def _replayed(here: xr.Dataset) -> str:
    """The replay's value, and whether the masked one differs from it; "" where it was not scored."""
    if "replayed" not in here or not np.isfinite(here["replayed"].sel(bound="estimate")):
        return ""
    p = float(here["p_replay"])
    return f", replayed {float(here['replayed'].sel(bound='estimate')):.3g}" + (
        f" (p of no difference from masked {p:.2g})" if np.isfinite(p) else ""
    )


@quality.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel per metric: the value of every arm with its interval, the clean value as a line."""
    metrics = [str(metric) for metric in dataset["metric"].values]
    arms = [str(arm) for arm in dataset["arm"].values if arm != runs.CLEAN]
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    names = [figures.wrapped(arm, 22) for arm in arms]
    lines = max((1 + name.count("\n") for name in names), default=1)
    height = 0.9 + len(arms) * (0.15 + 0.13 * lines + 0.12 * ("replayed" in dataset))
    canvas, axes = figures.panels(rows, columns, width=max(4.4, 2.7 * columns + 0.8), height=height, sharey=True)
    for ax in axes.ravel()[len(metrics) :]:
        ax.set_visible(False)
    for ax, metric in zip(axes.ravel(), metrics, strict=False):
        _panel(ax, dataset.sel(metric=metric), arms, figures.palette(dataset))
    axes[0, 0].set_yticks(range(len(arms)), names)
    axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    figures.letters(axes)
    samples = dataset.attrs["samples"]
    heading = f"{dataset.attrs['title']} · {samples} samples · symbol and bar: value and 95% BCa interval"
    note = "No bar: no interval, or one without width." + figures.few(samples)
    figures.legend_above(canvas, *axes.ravel(), heading=heading, note=note)
    return canvas


def _panel(ax: Axes, at: xr.Dataset, arms: list[str], palette: list[str]) -> None:
    """One metric: a row per arm, the clean value as a line where the metric gives it one."""
    for row, arm in enumerate(arms):
        low, point, high = at["value"].sel(arm=arm).values
        look = {"marker": "o"} | figures.look(arm, palette, every=None) | {"markersize": 4.5, "markevery": None}
        if np.isfinite(low):
            ax.plot([low, high], [row, row], color=look["color"], linewidth=1.6, solid_capstyle="butt")
        ax.plot(point, row, linestyle="none", **look)
        if "replayed" in at and np.isfinite(at["replayed"].sel(arm=arm)).any():
            low, point, high = at["replayed"].sel(arm=arm).values
            ax.plot([low, high], [row + 0.22] * 2, color=look["color"], linewidth=0.8, alpha=0.7)
            hollow = {"marker": "D", "markersize": 3.5, "markerfacecolor": "white", "color": look["color"]}
            ax.plot(point, row + 0.22, linestyle="none", **hollow, label="its replay" if row == len(arms) - 1 else None)
    if str(at["kind"].values) == "score":
        low, point, high = at["value"].sel(arm=runs.CLEAN).values
        ax.axvspan(low, high, color=figures.FLOOR, alpha=0.12, linewidth=0, zorder=0, label="clean, interval")
        ax.axvline(point, color=figures.FLOOR, linewidth=1, linestyle=figures.DASHES, zorder=1, label="clean")
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(figures.wrapped(at["title"].item(), 31), fontsize=7)
    better = "higher" if bool(at["higher_is_better"]) else "lower"
    ax.set_title(f"{at['metric'].item()} ({better} better)", loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(5))
