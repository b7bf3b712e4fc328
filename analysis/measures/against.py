"""Two arms of one run held against each other: which ends farther from clean, paired by sample.

What two arms cost is theirs to say; at equal cost, such as a cache and fewer steps, this is the comparison. A final
error is the distance to the picture of the full computation, not a loss of quality, which is `quality`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.answer import words
from analysis.common import pairing, runs, spectrum, statistics
from analysis.figures import style as figures
from analysis.measure import shipped
from interventions.naming import unknown

ERRORS = {"total": "distance to clean", "systematic": "own-path sum"}
MOST_ROWS = 24  # drawn


@shipped
def against(run: xr.DataTree, than: Sequence[str] = (), *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Final error of every intervened arm over that of another, sample by sample: ratios with BCa limits over starts.

    `ratio` (error, arm, than, sample), `ratio_interval` their geometric mean along `bound`, `smaller` (error, arm,
    than) the share of samples in which the arm's is the smaller. `error`: "total" is |y - x| at the end; "systematic",
    where the own-path sum was recorded, its norm, which is nearly free of redrawn detail. `than`: the arms that the
    others are compared with, all by default. NaN where an error is 0.
    Raises RunError for a run with fewer than two arms, and for a name in `than` that is none of them.
    """
    run = runs.complete(run)
    names, start = runs.names(run), pairing.identities(run, paths=False)
    if len(names) < 2:
        raise runs.RunError("this run has fewer than two intervened arms: there is nothing to compare")
    for name in than:
        if name not in names:
            raise runs.RunError(unknown(f"--than {name}: no arm of this run", name, names))
    errors = {"total": spectrum.norm(runs.final_delta(run).sel(arm=names))}
    if runs.has(run, "decomposition/own_sum"):
        errors["systematic"] = spectrum.norm(runs.get(run, "decomposition/own_sum").sel(arm=names))
    each = [runs.plain(error).compute() for error in errors.values()]
    error = xr.concat(each, dim=pd.Index(list(errors), name="error"))
    other = error.sel(arm=list(than) or names).rename(arm="than")
    result = xr.Dataset({"ratio": error.where(error > 0) / other.where(other > 0)})
    of_start = xr.apply_ufunc(np.log, result["ratio"]).groupby(xr.DataArray(start, dims="sample", name="start"))
    interval = statistics.intervals(of_start.mean(skipna=False), dim="start", confidence=(confidence,), seed=seed)
    result["ratio_interval"] = xr.apply_ufunc(np.exp, interval.squeeze("confidence", drop=True))
    result["smaller"] = (result["ratio"] < 1).mean("sample", skipna=False)
    result = runs.with_arms(result.transpose("error", "arm", "than", ...), run)
    result.attrs = {"title": runs.title(run), "samples": len(start), "confidence": confidence}
    return result


# --- presentation ---


@against.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per pair of arms and kind of error: the ratio with its limits, and how often the first is smaller."""
    chosen = [str(name) for name in dataset["than"].values]
    every = [str(arm) for arm in dataset["arm"].values]
    rows = []
    for error in dataset["error"].values:
        for than in chosen:
            for arm in every:
                if arm == than or (len(chosen) == len(every) and every.index(arm) > every.index(than)):
                    continue  # each pair once where all are compared with all
                at = dataset.sel(error=error, arm=arm, than=than)
                low, middle, high = (float(bound) for bound in runs.bounds(at["ratio_interval"]))
                row = {"error": str(error), "arm": arm, "than": than, "low": low, "estimate": middle, "high": high}
                rows.append(row | {"smaller in": float(at["smaller"])})
    return pd.DataFrame(rows)


@against.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Which arms are told apart by the total error, and which are not."""
    rows = table(dataset).query("error == 'total'").to_dict("records")
    texts = [f"{row['arm']} / {row['than']} {words.number(row['estimate'])}{_within(row)}" for row in rows[:MOST_ROWS]]
    rest = f"; and {len(rows) - MOST_ROWS} more pairs" if len(rows) > MOST_ROWS else ""
    open_ = sum(row["low"] <= 1 <= row["high"] for row in rows)
    return (
        f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. Distance to clean of one arm over another's, "
        f"geometric mean: {'; '.join(texts)}{rest}. Of {len(rows)} pairs {open_} are not told apart by the "
        f"{dataset.attrs['confidence']:.0%} interval."
    )


def _within(row: dict) -> str:
    return f" [{words.number(row['low'])}, {words.number(row['high'])}]" if np.isfinite(row["low"]) else ""


@against.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Every pair's ratio with its interval, one column a kind of error."""
    every = table(dataset)
    kinds = [str(name) for name in dataset["error"].values]
    pairs = list(dict.fromkeys(f"{row['arm']} / {row['than']}" for row in every.to_dict("records")))
    shown = pairs[:MOST_ROWS]
    canvas, axes = figures.panels(
        1, len(kinds), width=3.4 + 2.6 * len(kinds), height=0.9 + 0.24 * len(shown), sharey=True
    )
    for ax, kind in zip(axes[0], kinds, strict=True):
        rows = every[every["error"] == kind].head(len(shown))
        place = -np.arange(len(rows), dtype=float)
        bars = [rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]]
        ax.errorbar(
            rows["estimate"], place, xerr=bars, fmt="o", markersize=4, capsize=2, color=figures.ARMS[0], label="_"
        )
        ax.axvline(1, color=figures.NULL, linewidth=0.9, linestyle=figures.DASHES)
        ax.set_yticks(place, shown)
        ax.set_title(f"Ratio of the {ERRORS[kind]}", loc="left")
        figures.log_axis(ax, "x")
    figures.letters(axes)
    note = (
        f"Geometric means over samples, {dataset.attrs['confidence']:.0%} BCa bars; left of 1 the first arm is nearer "
    )
    note += "to clean." + (
        f" {len(pairs) - len(shown)} more pairs are in the table." if len(pairs) > len(shown) else ""
    )
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    figures.legend_above(canvas, axes[0, 0], heading=heading, note=note + figures.few(dataset.attrs["samples"]))
    return canvas
