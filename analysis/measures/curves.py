"""Metric against density for each strategy: Figure 1 and Table 1 of the masking paper, from saved sweeps.

Reads sweeps of classification, retrieval and scored generation (docs/matched.md); runs no model. Relative changes of
different metrics are no common scale (CMMD is a squared distance), so the shift in standard deviations and the squared
MMD of each model's own features stand beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy import stats

from analysis.common.statistics import BOUNDS, holm
from analysis.figures import style as figures
from analysis.figures.style import FAMILIES
from analysis.measure import shipped

RESAMPLES = 2000
DODGE = 0.012
"""Between the symbols of two families at one density, in units of the density."""
METRICS = {
    "classify": "top-1 accuracy",
    "retrieve": "R@1, mean of both directions, full gallery",
    "generate": "share of pictures the judge recognises",
}
PUBLISHED_CLEAN = {"retrieve": 0.81, "classify": 0.850, "generate": 0.53}
PUBLISHED = {
    ("retrieve", 0.25): {"small-world": (0.79, -2), "preferential": (0.75, -8), "hub-spoke": (0.64, -21)},
    ("retrieve", 0.50): {"small-world": (0.81, -0), "preferential": (0.80, -1), "hub-spoke": (0.74, -9)},
    ("classify", 0.25): {"small-world": (0.789, -7), "preferential": (0.626, -26), "hub-spoke": (0.692, -19)},
    ("classify", 0.50): {"small-world": (0.842, -1), "preferential": (0.827, -3), "hub-spoke": (0.825, -3)},
    ("generate", 0.25): {"small-world": (1.98, 274), "preferential": (3.91, 638), "hub-spoke": (3.61, 581)},
    ("generate", 0.50): {"small-world": (1.21, 128), "preferential": (2.81, 430), "hub-spoke": (3.02, 470)},
}
"""The masking paper, Table 1: value and change in percent.

CLIP ViT-B/32 R@1, ViT-L/16 top-1, DiT-XL/2 CMMD (lower is better).
"""
PUBLISHED_ABLATION = {"local": 0.695, "random": 0.091}
"""The masking paper, Figure 1: ViT-L/16 top-1 at about 13% density."""


@dataclass(frozen=True)
class Hits:
    """Right answers of one kind of query, gathered by the unit that is resampled: both [cell, unit] and [unit]."""

    right: np.ndarray
    queries: np.ndarray


NOTHING_RIGHT = (
    "so no mask can lose anything: see that the folders of --data are the model's classes, and take more pictures "
    "(--limit)"
)


@shipped
def curves(*sweeps: xr.Dataset, published: bool = False, resamples: int = RESAMPLES, seed: int = 0) -> xr.Dataset:
    """One row per model and spec, mask seeds averaged: metric, change, shift, MMD; dims (row, bound).

    `value`, `change` (value minus clean), `relative` (that over clean) and `shift` have 95% intervals along `bound`
    (low, estimate, high).
    sweeps: what `open_sweep` or `score_runs` gave. `published`: whether the figure shows the masking paper's values,
    which are of other models and pictures. Intervals are percentile bootstrap over samples (retrieval: over
    groups of an image and its texts), paired with clean, the gallery held fixed. `p` is McNemar's exact test against
    clean, the largest over mask seeds; `p_holm` corrects it over the rows of a sweep. Raises ValueError for a sweep
    without a clean cell.
    """
    parts = [_curve(data, resamples, seed) for data in sweeps]
    joined = xr.concat(parts, dim="row", join="outer", data_vars="all", coords="different", compat="equals")
    joined.attrs |= {"resamples": resamples, "published": int(published)}
    return joined


def _curve(data: xr.Dataset, resamples: int, seed: int) -> xr.Dataset:
    config = json.loads(data.attrs["config"])
    task, model = config["task"], config["model"]
    kinds = hits(data, task)
    specs = list(dict.fromkeys(data["spec"].values.tolist()))
    if "clean" not in specs:
        raise ValueError(f"the {task} sweep of {model} has no complete clean cell to compare with; resume it first")
    rows = [np.flatnonzero(data["spec"].values == spec) for spec in specs]
    weights = resampled(kinds[0].right.shape[1], resamples, seed)
    clean = _metric(kinds, rows[specs.index("clean")], weights)
    columns: dict[str, list] = {}

    def put(**values: object) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    for spec, cells in zip(specs, rows, strict=True):
        one = _metric(kinds, cells, weights)
        lost = one - clean
        per_seed = [_metric(kinds, np.array([cell]), weights[:1])[0] for cell in cells]
        put(value=_interval(one), change=_interval(lost), relative=_interval(_of(lost, clean)))
        put(seed_sd=np.std(per_seed), seeds=len(cells))
        put(p=max(mcnemar(kinds, int(rows[specs.index("clean")][0]), int(cell)) for cell in cells))
        put(spec=spec, **{name: data[name].values[cells].mean() for name in ("density", "density_sequence")})
        put(family=str(data["family"].values[cells[0]]), target_density=data["target_density"].values[cells[0]])
        put(**_extras(data, task, cells))
        put(**_shift(data, cells, weights))
    dims = {name: ("row", "bound") if np.ndim(values[0]) else ("row",) for name, values in columns.items()}
    out = xr.Dataset({name: (dims[name], np.array(values)) for name, values in columns.items()})
    out["p_holm"] = ("row", _holm(out["p"].values, out["family"].values))
    names = {"task": task, "model": model}
    out = out.assign({name: ("row", np.full(out.sizes["row"], text, dtype=object)) for name, text in names.items()})
    out = out.assign_coords(bound=list(BOUNDS))
    return out.set_coords(["task", "model", "spec", "family", "target_density", "density", "density_sequence"])


def task_of(data: xr.Dataset) -> str:
    """What a sweep did: classify, retrieve, denoise or generate."""
    return json.loads(data.attrs["config"])["task"]


def hits(data: xr.Dataset, task: str) -> list[Hits]:
    """The right answers of a sweep, per cell and resampled unit; retrieval has one kind per direction."""
    if task != "retrieve":
        right = data["correct"].values.astype(float)
        return [Hits(right, np.ones(right.shape[1]))]
    kinds = []
    groups = np.unique(data["image_group"].values)
    for rank, group in (("image_rank", "image_group"), ("text_rank", "text_group")):
        unit = np.searchsorted(groups, data[group].values)
        right = np.stack([np.bincount(unit, row, len(groups)) for row in (data[rank].values == 1).astype(float)])
        kinds.append(Hits(right, np.bincount(unit, minlength=len(groups)).astype(float)))
    return kinds


def _of(lost: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Change over the clean value, draw by draw; all NaN where the clean value is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return lost / clean if clean[0] else np.full_like(lost, np.nan)


def _interval(draws: np.ndarray) -> list[float]:
    """Low, estimate and high of a statistic whose first draw is the data itself."""
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return [low, draws[0], high]


def resampled(units: int, resamples: int, seed: int) -> np.ndarray:
    """How often each unit is drawn; the first row is the data itself: [1 + resamples, units]."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.concatenate([np.ones((1, units)), drawn])


def _metric(kinds: Sequence[Hits], cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The metric for every row of weights, averaged over the cells (mask seeds) and the kinds of query."""
    return np.mean([weights @ kind.right[cells].mean(0) / (weights @ kind.queries) for kind in kinds], axis=0)


def mcnemar(kinds: Sequence[Hits], clean: int, cell: int) -> float:
    """Exact two-sided p of McNemar's test: right before and wrong after against the reverse, all queries pooled.

    Units with several queries (retrieval) count net gains and losses, which is conservative. 1 if none differ.
    """
    change = np.concatenate([kind.right[cell] - kind.right[clean] for kind in kinds])
    gained, lost = int(change[change > 0].sum()), int(-change[change < 0].sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _holm(p: np.ndarray, family: np.ndarray) -> np.ndarray:
    tested = ~np.isin(family, ("clean", "full"))
    out = np.full(len(p), np.nan)
    if tested.any():
        out[tested] = holm(p[tested])
    return out


def _extras(data: xr.Dataset, task: str, cells: np.ndarray) -> dict[str, float]:
    """The further metrics of a task, mask seeds averaged."""
    one = data.isel(cell=cells)
    if task == "classify":
        return {"top5": float((one["correct5"] == 1).mean()), "agree": float((one["agree"] == 1).mean())}
    if task == "generate":
        return {"mmd2_real": float(one["mmd2_real"].mean(skipna=False))}
    recalls = {
        f"{way}_r{k}": float((one[rank] <= k).mean())
        for way, rank in (("i2t", "image_rank"), ("t2i", "text_rank"))
        for k in (1, 5, 10)
    }
    batch = one["gallery_recall"].mean(["cell", "direction"], skipna=False)
    return recalls | {f"gallery{int(size)}": float(batch.sel(gallery=size)) for size in batch["gallery"].values}


def _shift(data: xr.Dataset, cells: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Root mean squared shift of the features in standard deviations, with limits, and the squared MMD to clean."""
    fvu = data["feature_fvu"].values[cells].astype(float).mean(0)
    drawn = weights if weights.shape[1] == len(fvu) else resampled(len(fvu), len(weights) - 1, 0)
    root = np.sqrt(drawn @ fvu / drawn.sum(1))
    return {"shift": _interval(root), "mmd2": float(data["mmd2"].values[cells].mean())}


def frame_of(dataset: xr.Dataset) -> pd.DataFrame:
    """The rows as a table; an interval `value` becomes the columns value, value_low, value_high."""
    columns: dict[str, np.ndarray] = {}
    for name, variable in dataset.variables.items():
        if variable.dims == ("row",):
            columns[str(name)] = variable.values
        elif variable.dims == ("row", "bound"):
            low, estimate, high = variable.values.T
            columns |= {str(name): estimate, f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns)


@curves.presents("records")
def records(dataset: xr.Dataset) -> pd.DataFrame:
    """Everything, one line per model and spec; columns that no task of the dataset has are left out.

    What every task has is there, also empty: nothing is relative to a clean model that is never right.
    """
    frame = frame_of(dataset)
    return frame[[name for name in frame if str(name).startswith("relative") or frame[name].notna().any()]]


@curves.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """What fits a terminal: metric with limits, change in percent, McNemar's p after Holm, further metrics, scales."""
    frame = records(dataset)
    if frame["relative"].notna().any():  # not where nothing is right without a mask
        frame["change %"] = 100 * frame["relative"]
    first = ["model"] if frame["model"].nunique() > 1 else []
    first += ["spec", "density", "density_sequence", "value", "value_low", "value_high", "change %", "p_holm"]
    more = ["top5", "agree", *(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "mmd2_real"]
    kept = [name for name in [*first, *more, "shift", "mmd2"] if name in frame.columns]
    short = {"density_sequence": "whole", "value_low": "low", "value_high": "high", "p_holm": "p"}
    return frame[kept].rename(columns=short)


def table1(dataset: xr.Dataset) -> pd.DataFrame:
    """The masking paper's Table 1: our value and change beside the published ones, at 25% and 50% density.

    Generation's published metric is CMMD; ours is the squared MMD of the embedded CLIP's features to held-out drawings.
    """
    frame = frame_of(dataset)
    lines = []
    for (task, target), row in PUBLISHED.items():
        for model in frame.loc[frame["task"] == task, "model"].unique():
            ours = frame[(frame["task"] == task) & (frame["model"] == model)]
            column = "mmd2_real" if task == "generate" else "value"
            clean = float(ours.loc[ours["family"] == "clean", column].iloc[0])
            for family, (value, change) in row.items():
                cell = ours[(ours["family"] == family) & np.isclose(ours["target_density"], target)]
                if cell.empty:
                    continue
                mine = float(cell[column].iloc[0])
                line = {"task": task, "model": model, "density": target, "strategy": family, "clean": clean}
                line |= {"ours": mine, "change %": 100 * (mine / clean - 1) if clean else np.nan}
                lines.append(
                    line | {"published clean": PUBLISHED_CLEAN[task], "published": value, "published %": change}
                )
    return pd.DataFrame(lines)


@curves.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """What the curves show, one clause per model, and nothing about why."""
    clauses = []
    frame = frame_of(dataset)
    for (task, model), rows in frame.groupby(["task", "model"], sort=False):
        masked = rows[~rows["family"].isin(["clean", "full"])]
        clean = rows.loc[rows["family"] == "clean", "value"].iloc[0]
        if masked.empty:
            clauses.append(f"{model}: {METRICS[task]} {clean:.3f}, no mask")
            continue
        if not clean:
            clauses.append(f"{model}: {METRICS[task]} {clean:.3f} clean, {NOTHING_RIGHT}")
            continue
        worst, best = masked.loc[masked["relative"].idxmin()], masked.loc[masked["relative"].idxmax()]
        clause = f"{model}: {METRICS[task]} {clean:.3f} clean, {_in_words(worst)}"
        one = worst["spec"] == best["spec"]
        clauses.append(clause if one else f"{clause} at worst, {_in_words(best)} at best")
    return "; ".join(clauses) + ". 95% intervals over samples."


def _in_words(row: pd.Series) -> str:
    limits = f"[{row['value_low']:.3f}, {row['value_high']:.3f}]"
    share = f" ({100 * row['density']:.0f}% of image pairs)" if np.isfinite(row["density"]) else ""
    return f"{row['value']:.3f} {limits} under {row['spec']}{share}"


@curves.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Top: each model's own metric relative to clean. Bottom: shift of its features in standard deviations.

    Hollow marks are the masking paper's values (their models and data), where its metric is a ratio like ours and they
    were asked for.
    """
    frame, published = frame_of(dataset), bool(dataset.attrs.get("published", False))
    models = list(frame.groupby(["task", "model"], sort=False).groups)
    galleries = [name for name in frame.columns if name.startswith("gallery")]
    columns = len(models) + bool(galleries)
    canvas, axes = figures.panels(2, columns, width=max(4.6, 1.2 + 2.3 * columns), height=2.3)
    for column, (task, model) in enumerate(models):
        rows = frame[(frame["task"] == task) & (frame["model"] == model)]
        _panel(axes[0, column], rows)
        if published:
            _published(axes[0, column], task)
        _shifts(axes[1, column], rows)
        clean = rows.loc[rows["family"] == "clean", "value"].iloc[0]
        axes[0, column].set_title(f"{model}\n{_short(task)}, clean {clean:.3f}", loc="left")
        axes[1, column].set_title("Shift of features", loc="left")
        axes[1, column].set_xlabel("density of image pairs")
    axes[0, 0].set_ylabel("metric, share of clean")
    axes[1, 0].set_ylabel("feature shift (sd)")
    positive = frame.groupby(["task", "model"])["shift"].max().gt(0).all()  # NaN: not above 0
    figures.share_limits(axes[0, : len(models)])
    for ax in axes[0, : len(models)]:
        ax.set_ylim(0, max(ax.get_ylim()[1], 1.1))
    figures.share_limits(axes[1, : len(models)], log=positive)
    for ax in axes[:, : len(models)].ravel():
        ax.set_xlim(0, 1)
    if galleries:
        _galleries(axes[0, -1], frame[frame["task"] == "retrieve"], galleries, published)
        axes[1, -1].set_visible(False)
    figures.letters(axes)
    note = "Top row: symbols of one density stand side by side. Bars and bands: 95% percentile bootstrap over samples."
    if galleries:
        note += " Gallery panel: grey, from the worst to the best mask at about 25% density."
    if published:
        axes[1, 0].plot([], [], "o", color=figures.NULL, markerfacecolor="none", label="published (masking paper)")
        note += " Hollow: the masking paper's models on its own pictures, in the colour of the family."
    most = max(axes[0, : len(models)], key=lambda ax: len(ax.get_legend_handles_labels()[1]))
    figures.legend_above(canvas, most, axes[1, 0], heading="every model under the same families of masks", note=note)
    return canvas


def _galleries(axis: Axes, rows: pd.DataFrame, galleries: Sequence[str], published: bool) -> None:
    """R@1 against the size of the gallery it is ranked in: clean, and the range of the masks nearest to 25%."""
    sizes = np.array([int(name.removeprefix("gallery")) for name in galleries])
    order = np.argsort(sizes)
    masked = rows[~rows["family"].isin(["clean", "full"])]
    near = masked.loc[(masked["density"] - 0.25).abs().groupby(masked["family"]).idxmin()]
    values, clean = near[galleries].to_numpy(float)[:, order], rows[rows["family"] == "clean"].iloc[0]
    if len(values):
        axis.fill_between(sizes[order], values.min(0), values.max(0), color=figures.NULL, alpha=0.4, linewidth=0.8)
    axis.plot(sizes[order], clean[galleries].to_numpy(float)[order], color=figures.FLOOR, marker="o", markersize=3)
    if published:
        level = PUBLISHED_CLEAN["retrieve"]
        axis.axhline(level, color=figures.NULL, linewidth=0.8, linestyle=figures.DASHES)
        place = (sizes.min(), level)
        axis.annotate("masking paper, clean", place, (0, 2), textcoords="offset points", fontsize=7, color="#555555")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes[order], [str(size) for size in sizes[order]])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("pairs in the gallery")
    axis.set_title("R@1 and gallery size\nclean; masks in grey", loc="left")


def _short(task: str) -> str:
    return {"classify": "top-1", "retrieve": "R@1", "generate": "judge"}[task]


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    """A model's metric as a share of clean, families side by side at every density."""
    clean = rows.loc[rows["family"] == "clean", "value"].iloc[0]
    axis.axhline(1, color=figures.FLOOR, linewidth=0.7)
    if not clean:
        axis.text(0.5, 0.5, "nothing is right without a mask", transform=axis.transAxes, ha="center", fontsize=7)
        return
    lines = list(_lines(rows))
    for place, (family, line) in enumerate(lines):
        beside = DODGE * (place - (len(lines) - 1) / 2)
        low, middle, high = (1 + line[name] / clean for name in ("change_low", "change", "change_high"))
        error = [(middle - low).clip(lower=0), (high - middle).clip(lower=0)]
        look = figures.family_look(family)
        axis.errorbar(line["density"] + beside, middle, yerr=error, linewidth=1, elinewidth=0.8, label=family, **look)


def _published(axis: Axes, task: str) -> None:
    """The masking paper's values for a task whose metric is a ratio like ours."""
    points: list[tuple[float, str, float]] = []
    for (known, density), row in PUBLISHED.items():
        if known == task != "generate":
            points += [(density, family, value) for family, (value, _) in row.items()]
    points += [(0.13, family, value) for family, value in PUBLISHED_ABLATION.items() if task == "classify"]
    for density, family, value in points:
        look = figures.family_look(family) | {"markersize": 6, "markerfacecolor": "none", "linestyle": "none"}
        axis.plot(density, value / PUBLISHED_CLEAN[task], **look)


def _shifts(axis: Axes, rows: pd.DataFrame) -> None:
    for family, line in _lines(rows):
        bounds = (line["shift_low"], line["shift"], line["shift_high"])
        figures.band(axis, line["density"], *bounds, label=family, **figures.family_look(family))


def _lines(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Families with their rows by density, in the order in which they are listed everywhere."""
    masked = rows[~rows["family"].isin(["clean", "full"])]
    for family in sorted(masked["family"].unique(), key=lambda name: [*FAMILIES, name].index(name)):
        yield family, masked[masked["family"] == family].sort_values("density")
