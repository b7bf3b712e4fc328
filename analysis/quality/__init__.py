"""Image metrics of a run's decoded pictures: every arm against the clean pictures of the same samples.

`quality(run)` measures by everything that needs nothing but what is shipped; `quality(run, metrics=["clip-t"])` by what
is named. The one exception to "analysis imports no torch": the files of this package that hold a network import it
when that metric is asked for, and not before. How the pictures came about is not looked at here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from analysis.common import runs, statistics
from analysis.figures import style as figures
from analysis.quality.metrics import METRICS, Metric, choose
from analysis.quality.pictures import Pictures, pictures_of
from analysis.quality.weights import QualityError

__all__ = ["METRICS", "QualityError", "figure", "quality", "sentence", "table"]

BOUNDS = ["low", "estimate", "high"]
SET_RESAMPLES = 1999


def quality(
    run: xr.DataTree,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Every metric of every arm, with 95% BCa intervals over samples.

    `metrics` are names of `METRICS` (None: all that need only what is shipped and fit the run); `weights` maps a name
    to its weight file or folder. Of (metric, arm): `value` (bound); `change` (bound), arm minus clean paired by sample,
    where the metric scores a picture by itself; its paired d_z `effect_size` and two-sided `p` (exact McNemar for
    yes/no scores, else paired t), `p_holm` over the intervened arms but the floor. `score` (metric, arm, sample) holds
    the single values, NaN for metrics of whole sets. `progress(done, to do)` counts metric-arm pairs.
    Raises QualityError for an unknown or unfit metric, missing weights, or a run without pictures.
    """
    pictures = pictures_of(run)
    chosen, skipped = choose(metrics, pictures)
    parts = []
    total = len(chosen) * len(pictures.arms)
    for k, metric in enumerate(chosen):

        def tell(done: int, before: int = k * len(pictures.arms)) -> None:
            if progress:
                progress(before + done, total)

        score, value = _measured(metric, pictures, weights or {}, seed, tell)
        parts.append(_compared(metric, score, value, pictures.arms, seed))
    dataset = xr.concat(parts, dim=pd.Index([metric.name for metric in chosen], name="metric"))
    dataset = dataset.assign_coords(
        title=("metric", [metric.title for metric in chosen]),
        kind=("metric", [metric.kind for metric in chosen]),
        higher_is_better=("metric", [metric.higher_is_better for metric in chosen]),
        sample=pictures.images["sample"].values,
    )
    dataset.attrs = {
        "title": runs.title(run),
        "samples": dataset.sizes["sample"],
        "skipped": json.dumps(skipped),
        "weights": json.dumps({name: Path(path).name for name, path in (weights or {}).items()}),
    }
    return dataset


def _measured(
    metric: Metric, pictures: Pictures, weights: Mapping[str, str | Path], seed: int, tell: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Single values [arm, sample] (NaN for sets) and value [arm, bound]."""
    measure = metric.open(pictures, weights)
    clean = pictures.arm(runs.CLEAN)
    reference = measure(clean) if metric.kind == "set" else np.empty(0)
    scores, values = [], []
    for done, arm in enumerate(pictures.arms):
        images = pictures.arm(arm)
        if metric.kind == "set":
            scores.append(np.full(len(clean), np.nan))
            values.append(_set_value(metric, reference, measure(images), seed))
        else:
            scores.append(measure(images) if metric.kind == "score" else measure(images, clean))
            values.append(_bounds(scores[-1], seed))
        tell(done + 1)
    return np.stack(scores), np.stack(values)


def _bounds(values: np.ndarray, seed: int) -> np.ndarray:
    found = statistics.bca(values, seed=seed)
    return np.array([found.low, found.estimate, found.high])


def _set_value(metric: Metric, clean: np.ndarray, masked: np.ndarray, seed: int) -> np.ndarray:
    """[bound]: the distance of two sets, with an interval over jointly resampled samples where that means anything."""
    statistic, numbers = metric.between(clean, masked), np.arange(len(clean))
    point = float(statistic(numbers))
    if np.array_equal(clean, masked):
        return np.full(3, point)
    if not metric.interval:
        return np.array([np.nan, point, np.nan])
    found = statistics.bca(numbers, statistic, resamples=SET_RESAMPLES, seed=seed)
    return np.array([found.low, found.estimate, found.high])


def _compared(metric: Metric, score: np.ndarray, value: np.ndarray, arms: Sequence[str], seed: int) -> xr.Dataset:
    """One metric's dataset: value, and for scores of single pictures the change from clean."""
    clean = score[arms.index(runs.CLEAN)]
    change = np.full((len(arms), 3), np.nan)
    effect, p = np.full(len(arms), np.nan), np.full(len(arms), np.nan)
    if metric.kind == "score":
        for k, arm in enumerate(arms):
            if arm == runs.CLEAN:
                continue
            change[k] = _bounds(score[k] - clean, seed)
            effect[k] = statistics.effect_size(score[k], clean)
            if arm != runs.FULL:
                p[k] = paired_p(score[k], clean)
    return xr.Dataset(
        {
            "value": (("arm", "bound"), value),
            "change": (("arm", "bound"), change),
            "effect_size": ("arm", effect),
            "p": ("arm", p),
            "p_holm": ("arm", statistics.holm(p)),
            "score": (("arm", "sample"), score),
        },
        coords={"arm": list(arms), "bound": BOUNDS},
    )


def paired_p(masked: np.ndarray, clean: np.ndarray) -> float:
    """Two-sided p of "no difference", paired: exact McNemar where all values are 0 or 1, else the t test."""
    if np.isin(masked, (0, 1)).all() and np.isin(clean, (0, 1)).all():
        gained, lost = int((masked > clean).sum()), int((masked < clean).sum())
        return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    difference = masked - clean
    return float(min(1.0, 2 * min(statistics.p_above(difference), statistics.p_below(difference))))


# --- presentation ---


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
            rows.append(row | {"d_z": float(here["effect_size"]), "p (Holm)": float(here["p_holm"])})
    return pd.DataFrame(rows)


def sentence(dataset: xr.Dataset) -> str:
    """For every arm but the floor, what each metric says; no claim beyond the intervals."""
    texts = []
    for arm in (str(name) for name in dataset["arm"].values if name not in (runs.CLEAN, runs.FULL)):
        said = [_said(dataset.sel(metric=metric, arm=arm), dataset.sel(metric=metric, arm=runs.CLEAN))
                for metric in dataset["metric"].values]  # fmt: skip
        texts.append(f"{arm}: {'; '.join(said)}")
    left_out = "; ".join(f"{name} ({why})" for name, why in json.loads(dataset.attrs["skipped"]).items())
    ending = f" Left out: {left_out}." if left_out else ""
    shown = ". ".join(texts) if texts else "no arm but the clean one"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {shown}.{ending}"


def _said(here: xr.Dataset, clean: xr.Dataset) -> str:
    low, point, high = (float(v) for v in here["value"].values)
    text = f"{here['title'].item()} {point:.3g}"
    if str(here["kind"].values) != "score":
        return text + (f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else "")
    low, change, high = (float(v) for v in here["change"].values)
    reference = float(clean["value"].sel(bound="estimate"))
    return f"{text} against {reference:.3g} clean ({change:+.3g} [{low:.3g}, {high:.3g}])"


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """One panel per metric: the value of every arm with its interval, the clean value as a line."""
    metrics = [str(metric) for metric in dataset["metric"].values]
    arms = [str(arm) for arm in dataset["arm"].values if arm != runs.CLEAN]
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    canvas, axes = figures.panels(rows, columns, width=max(3.6, 2.9 * columns), height=0.9 + 0.26 * len(arms))
    for position, ax in enumerate(axes.ravel()):
        if position >= len(metrics):
            ax.set_visible(False)
            continue
        at = dataset.sel(metric=metrics[position])
        for row, arm in enumerate(arms):
            low, point, high = at["value"].sel(arm=arm).values
            color = figures.colour(arm, arms)
            if np.isfinite(low):
                ax.plot([low, high], [row, row], color=color, linewidth=1.6, solid_capstyle="butt")
            ax.plot(point, row, "o", color=color, markersize=4.5)
        if str(at["kind"].values) == "score":
            low, point, high = at["value"].sel(arm=runs.CLEAN).values
            ax.axvspan(low, high, color=figures.FLOOR, alpha=0.12, linewidth=0)
            ax.axvline(point, color=figures.FLOOR, linewidth=1, label="clean, 95% interval")
        ax.set_yticks(range(len(arms)), arms if position % columns == 0 else [""] * len(arms))
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.set_xlabel(at["title"].item(), fontsize=7)
        better = "higher" if bool(at["higher_is_better"]) else "lower"
        ax.set_title(f"{metrics[position]} ({better} is better)")
    figures.legend_above(
        canvas, *axes.ravel(), heading=f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    )
    return canvas
