"""What each step does to the error: adds to it (injected), passes it on (propagated), or both at once (interaction).

It reads the four-evaluation decomposition of a run recorded with `decomposition` and compares the clean map's gain
with that of Gaussian data. It describes single steps; whether the error compounds over many is for `impulse` and
`verdict`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import null
from analysis.common import floor, runs, spectrum
from analysis.common.runs import FLOOR_FACTOR
from analysis.figures import style as figures
from analysis.measure import shipped

PARTS = ("injected", "propagated", "interaction")
TOTAL_EXCESS = 1.5  # a stretch of steps is called critical if its excess gains multiply to more than this
MOST_ARMS = 4  # drawn
LINEAR = {"tangent_excess": "tangent", "worst_direction": "direction"}


@shipped
def decompose(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Energy of the parts, their cosine, the excess gain and the closure of every step, (arm, sample, step).

    `share` (part, arm, sample, step): energy of injected, propagated and interaction over their sum, which is 1;
    `cross`: what their inner products add to |delta'|^2, over the same sum. `cosine` between injected and
    propagated, `mean_cosine` its mean. `excess`: gain over the null gain on the same delta (`null.null_gain`), with
    `median`, `rms` and `worst` over samples; NaN where the error is below 100 times the floor of the `full` arm.
    `critical` marks the stretch of steps where the lower limits of the RMS excess have their largest product, if it
    exceeds 1.5. `closure` is |delta' - sum of parts| / |delta'|. Raises RunError without the record
    `decomposition`. Source: docs/science.md, "Decomposition".
    With the records `tangent` and `worst` also `tangent_excess` (arm, sample, step), the gain of an infinitesimal
    error in the same direction over the same null, and `worst_direction` (sample, step), the Jacobian's largest
    singular value over that of Gaussian data; `tangent` and `direction` are their medians. Summaries over samples have
    the dimension `bound` (low, estimate, high; BCa), `worst` excepted.
    """
    run = runs.complete(run)
    runs.need(run, "metrics/propagated_l2", "decomposition")
    metrics = run["metrics"].ds.compute().astype(np.float64)
    shown = runs.names(run)
    energy = xr.concat([metrics[f"{part}_l2"] ** 2 for part in PARTS], dim=xr.Variable("part", list(PARTS)))
    total = energy.sum("part", skipna=False)
    positive = total.where(total > 0)
    result = xr.Dataset({
        "share": energy / positive,
        "cross": metrics["delta_l2"] ** 2 / positive - 1,
        "cosine": metrics["injected_propagated_cosine"],
        "gain": metrics["gain"],
        "null_gain": null.null_gain(run).compute().reset_coords(drop=True),
        "closure": metrics["closure"],
    })  # fmt: skip
    result["excess"] = (result["gain"] / result["null_gain"]).where(_above_floor(run, metrics))
    if "tangent_gain" in metrics:
        result["tangent_excess"] = (metrics["tangent_gain"] / result["null_gain"]).where(_above_floor(run, metrics))
    if "worst_gain" in metrics:
        gains = spectrum.step_gain(run, spectrum.data_variance(run))
        gaussian = gains.max("ring", skipna=False).compute().reset_coords(drop=True)
        result["worst_direction"] = metrics["worst_gain"] / gaussian
    result = result.sel(arm=shown)
    result.update(_summaries(result, confidence, seed))
    result.update(_mean_parts(metrics, shown))
    result["critical"] = critical_window(runs.bounds(result["rms"])[0].transpose("arm", "step"))
    result = runs.with_arms(result, run)
    result.attrs = {
        "title": runs.title(run), "samples": result.sizes["sample"], "confidence": confidence,
        "largest_closure": float(result["closure"].max(skipna=True)),
    }  # fmt: skip
    return result


def _above_floor(run: xr.DataTree, metrics: xr.Dataset) -> xr.DataArray:
    """Where the error handed to a step is far enough above the numerical floor to be analysed."""
    before = metrics["delta_l2"].shift(step=1, fill_value=0.0)
    own = floor.measured(run, before)
    return before > (0 if own is None else FLOOR_FACTOR * own.max("sample", skipna=True))


def _summaries(result: xr.Dataset, confidence: float, seed: int) -> xr.Dataset:
    """Statistics over samples, with BCa limits along `bound` where they are intervals."""

    def over_samples(values: xr.DataArray, statistic: str) -> xr.DataArray:
        return runs.summary(values, statistic, confidence=confidence, seed=seed)

    summaries = xr.Dataset({
        "worst": result["excess"].max("sample", skipna=True),
        "mean_share": result["share"].mean("sample", skipna=True),
        "mean_cross": result["cross"].mean("sample", skipna=True),
        "median": over_samples(result["excess"], "median"),
        "rms": over_samples(result["excess"] ** 2, "mean").clip(min=0) ** 0.5,
        "mean_cosine": over_samples(result["cosine"], "mean"),
    })  # fmt: skip
    for source, name in LINEAR.items():
        if source in result:
            summaries[name] = over_samples(result[source], "median")
    return summaries


def critical_window(rms_low: xr.DataArray) -> xr.DataArray:
    """The stretch of steps where `rms_low` (arm, step) multiplies to the most, marked only if that exceeds 1.5.

    A step belongs to it as far as it adds more than an even pace over the whole run would, 1.5^(1 / steps).
    """
    marks = np.zeros(rms_low.shape, dtype=bool)
    pace = np.log(TOTAL_EXCESS) / rms_low.sizes["step"]
    for row, values in zip(marks, np.log(rms_low.fillna(1.0).clip(min=1e-12).values), strict=True):
        sums = np.concatenate([[0.0], np.cumsum(values - pace)])
        lowest = np.minimum.accumulate(sums)
        end = int(np.argmax(sums - lowest))
        start = int(np.argmin(sums[: end + 1]))
        row[start:end] = values[start:end].sum() > np.log(TOTAL_EXCESS)
    return rms_low.copy(data=marks)


def _mean_parts(metrics: xr.Dataset, shown: list[str]) -> xr.Dataset:
    """Share of the injected energy that enters through the step's mean rather than its noise scale (DDPM)."""
    if "injected_mean_l2" not in metrics:
        return xr.Dataset()
    mean, scale = (metrics[f"injected_{name}_l2"].sel(arm=shown) ** 2 for name in ("mean", "variance"))
    total = (mean + scale).mean("sample", skipna=False)
    return xr.Dataset({"injected_through_mean": mean.mean("sample", skipna=False) / total.where(total > 0)})


# --- presentation ---


@decompose.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and third of the run: mean shares, cosine, geometric-mean, RMS and worst excess gain,
    closure.
    """
    steps = dataset.sizes["step"]
    bounds = np.linspace(0, steps, 4).round().astype(int)
    rows = []
    for arm in dataset["arm"].values:
        for name, low, high in zip(("early", "middle", "late"), bounds[:-1], bounds[1:], strict=True):
            at = dataset.sel(arm=arm).isel(step=slice(low, high))
            row: dict[str, object] = {"arm": str(arm), "third": name}
            row |= {f"{part} share": float(at["mean_share"].sel(part=part).mean(skipna=True)) for part in PARTS}
            row |= {
                "cosine": float(at["cosine"].mean(skipna=True)),
                "excess gain, median": float(runs.bounds(at["median"])[1].median()),
                "excess gain, RMS": float(np.sqrt((at["excess"] ** 2).mean(skipna=True))),
                "excess gain, worst": float(at["excess"].max(skipna=True)),
                "largest closure": float(at["closure"].max(skipna=True)),
            }
            linear = {"tangent": "excess gain, tangent", "direction": "worst direction"}
            row |= {label: float(runs.bounds(at[name])[1].median()) for name, label in linear.items() if name in at}
            rows.append(row)
    return pd.DataFrame(rows)


@decompose.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """What a typical step does to the error, and how well the parts close."""
    texts = []
    shown, rest = runs.to_tell(dataset)
    for arm in shown:
        at = dataset.sel(arm=arm)
        share, excess = at["mean_share"].mean("step", skipna=True), float(runs.bounds(at["median"])[1].median())
        text = (
            f"{arm}: of the error energy after a step {float(share.sel(part='propagated')):.0%} is passed on, "
            f"{float(share.sel(part='injected')):.0%} new and {float(share.sel(part='interaction')):.1%} interaction; "
            f"the clean map's gain is {excess:.3f} times the Gaussian one (median over steps)"
        )
        critical = np.flatnonzero(at["critical"].values)
        if critical.size:
            text += f", with a critical window at steps {critical.min()} to {critical.max()}"
        texts.append(text)
    closed = f"The parts close to {dataset.attrs['largest_closure']:.1e}."
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {'; '.join(texts)}{rest}. {closed}"


@decompose.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Stacked energies, their cosine, and the excess gain, one column per arm."""
    arms, steps = runs.to_draw(dataset, MOST_ARMS), dataset.sizes["step"]
    width = max(5.4, 2.7 * len(arms) + 1.9)
    canvas, axes = figures.panels(3, len(arms), width=width, height=1.8, sharex=True, sharey="row")
    for column, arm in enumerate(arms):
        at, color = dataset.sel(arm=arm), figures.colour(arm, figures.palette(dataset))
        _energies(axes[0, column], at)
        _cosine(axes[1, column], at, color)
        _excess(axes[2, column], at, color)
        for ax, title in zip(axes[:, column], (arm, "Alignment", "Excess gain"), strict=True):
            ax.set_title(title, loc="left")
            figures.progress_axis(ax, steps)
            ax.set_xlabel("")
        axes[2, column].set_xlabel("step (noise → image)")
    figures.letters(axes)
    for ax, label in zip(axes[:, 0], ("share of energy", "cosine", "gain / Gaussian gain"), strict=True):
        ax.set_ylabel(label)
    for row in axes[::2]:
        figures.legend_beside(row)
    samples = dataset.attrs["samples"]
    heading = f"{dataset.attrs['title']} · {samples} samples · {dataset.attrs['confidence']:.0%} BCa bands"
    note = (
        "Top row: energy after a step, as shares of what was passed on, added new, and both at once; the parts close "
        f"to {dataset.attrs['largest_closure']:.0e} of the error. Middle row: cosine between what is new and what was "
        "passed on. Bottom row: the clean step's gain on the error over that on Gaussian data. Hatched: critical "
        f"window, where the lower limits of the RMS excess gain multiply to more than {TOTAL_EXCESS}. Such a product "
        "is no growth factor of any one perturbation; impulse runs measure that."
    )
    note += figures.few(samples) + figures.left_out(dataset.sizes["arm"], len(arms))
    figures.legend_above(canvas, heading=heading, note=note)
    return canvas


def _energies(ax: Axes, at: xr.Dataset) -> None:
    x, bottom = np.arange(at.sizes["step"]), np.zeros(at.sizes["step"])
    for part in ("propagated", "injected", "interaction"):
        top = bottom + at["mean_share"].sel(part=part).fillna(0).values
        ax.fill_between(x, bottom, top, facecolor=figures.PARTS[part], edgecolor="white", linewidth=0.6, label=part)
        bottom = top
    ax.set_ylim(0, 1)


def _cosine(ax: Axes, at: xr.Dataset, color: str) -> None:
    x = np.arange(at.sizes["step"])
    figures.band(ax, x, *runs.bounds(at["mean_cosine"]), color=color, label="")
    ax.axhline(0, color="black", linewidth=0.7)
    ax.set_ylim(-1, 1)


def _excess(ax: Axes, at: xr.Dataset, color: str) -> None:
    x, critical = np.arange(at.sizes["step"]), np.flatnonzero(at["critical"].values)
    if critical.size:
        window: dict[str, Any] = {
            "facecolor": figures.WINDOW,
            "edgecolor": "#d9c48a",
            "hatch": "....",
            "linewidth": 0,
            "zorder": 0,
        }
        ax.axvspan(critical.min() - 0.5, critical.max() + 0.5, label="critical window", **window)
    if "direction" in at:
        direction = runs.bounds(at["direction"])[1]
        ax.plot(x, direction, color=figures.NULL, linewidth=1.1, label="median, worst direction")
    if "tangent" in at:
        tangent = runs.bounds(at["tangent"])[1]
        ax.plot(x, tangent, color=color, linestyle=(0, (1, 1)), linewidth=1.3, label="median, infinitesimal error")
    figures.band(ax, x, *runs.bounds(at["median"]), color=color, label="median")
    figures.band(ax, x, *runs.bounds(at["rms"]), color="#333333", label="RMS", linewidth=1.1, linestyle=figures.DASHES)
    ax.plot(x, at["worst"], color="#333333", linestyle=":", linewidth=1, label="worst sample")
    ax.axhline(1, color="black", linewidth=0.7)
    figures.log_axis(ax)
