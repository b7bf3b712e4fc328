"""The picture of `onset`: a row per metric, values of clean and masked over the steps, changes over log-SNR."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.common import runs
from analysis.figures import style as figures

MOST_METRICS, MOST_ARMS = 4, 4
NOTE = (
    "Dark: clean. Bands: 95% BCa over samples; dotted: limits that hold for all arms and steps of the metric at once. "
    "Symbols under the curves: onset with its 95% interval. Grey: before the clean curve is half way from its first to "
    "its last value. At high noise the predicted image is a blur, whose score is low for clean too: scores of blurs "
    "and of pictures are not comparable."
)


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """A row per metric: left the metric of the predicted image over steps, right its change from clean over log-SNR."""
    metrics = [str(metric) for metric in dataset["metric"].values][:MOST_METRICS]
    arms = figures.palette(dataset)
    masked = [arm for arm in runs.to_draw(dataset, MOST_ARMS + 1) if arm != runs.CLEAN][:MOST_ARMS]
    canvas, axes = figures.panels(len(metrics), 2, width=7.6, height=2.7)
    for (left, right), metric in zip(axes, metrics, strict=True):
        at = dataset.sel(metric=metric)
        _values(left, at, masked, arms)
        _changes(right, at, masked, arms)
    figures.letters(axes)
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} paired samples"
    left_out = figures.left_out(dataset.sizes["arm"] - 1, len(masked))
    figures.legend_above(
        canvas, axes[0, 0], heading=heading, note=NOTE + left_out + figures.few(dataset.attrs["samples"])
    )
    return canvas


def _values(axes: Axes, at: xr.Dataset, masked: list[str], arms: list[str]) -> None:
    steps = at["frame_step"].values
    readable = float(at["readable"].sel(bound="estimate"))
    if np.isfinite(readable):
        axes.axvspan(0, readable, color="#ececec", zorder=0, linewidth=0)
    for arm in [runs.CLEAN, *masked]:
        low, middle, high = (bound.values for bound in runs.bounds(at["value"].sel(arm=arm)))
        if np.isfinite(middle).any():
            look = figures.look(arm, arms, every=None)
            figures.band(axes, steps, low, middle, high, label=arm, **look)
    figures.progress_axis(axes, int(steps[-1]) + 1)
    axes.set_title(str(at["title"].values), loc="left")
    axes.set_ylabel("of the predicted image")


def _changes(axes: Axes, at: xr.Dataset, masked: list[str], arms: list[str]) -> None:
    """Changes from clean; below them, in a strip of its own, a row for every arm with its onset."""
    noise = _noise(at)
    axes.axhline(0, color=figures.NULL, linewidth=0.7)
    axes.set_title("Change from clean", loc="left")
    axes.set_xlabel("log signal-to-noise ratio (noise → image)")
    axes.set_xlim(np.nanmin(noise), np.nanmax(noise))  # NaN: noise alone has no place on the axis
    if str(at["answer"].sel(arm=masked[0]).values) == "set" if masked else True:
        axes.text(0.5, 0.5, "distance of sets: see left", transform=axes.transAxes, ha="center", fontsize=7.5)
        axes.set_yticks([])
        return
    for arm in masked:
        here, look = at.sel(arm=arm), figures.look(arm, arms, every=None)
        figures.band(axes, noise, *(bound.values for bound in runs.bounds(here["change"])), label=arm, **look)
        for limit in ("low", "high"):
            edge = here["band"].sel(bound=limit).values
            axes.plot(noise, edge, color=look["color"], linewidth=0.8, linestyle=(0, (1, 1.5)))
    bottom, top = axes.get_ylim()
    line = 0.07 * (top - bottom)
    for row, arm in enumerate(masked):
        here, look = at.sel(arm=arm), figures.look(arm, arms, every=None)
        height = bottom - (row + 0.7) * line
        first, middle, last = (_at_noise(at, float(bound)) for bound in here["onset"].values)
        if np.isfinite(middle):
            limits = [middle if np.isnan(first) else first, float(noise[-1]) if np.isnan(last) else last]
            axes.plot(limits, [height, height], color=look["color"], linewidth=2)
            axes.plot(middle, height, marker=look.get("marker", "o"), markersize=5, color=look["color"])
    axes.set_ylim(bottom - (len(masked) + 0.4) * line, top)


def _noise(at: xr.Dataset) -> np.ndarray:
    """Log-SNR of the frames; NaN in a first step that starts from noise alone."""
    return np.where(np.isfinite(at["log_snr"]), at["log_snr"], np.nan)


def _at_noise(at: xr.Dataset, step: float) -> float:
    """Where the frame of this step stands; at the edge where it starts from noise alone."""
    if not np.isfinite(step):
        return np.nan
    noise = _noise(at)
    edge = np.nanmin(noise)  # NaN: noise alone
    return float(np.nan_to_num(noise[at["frame_step"].values == int(step)], nan=edge)[0])  # NaN: at the edge
