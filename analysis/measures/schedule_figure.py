"""Pictures of schedules: which cells hurt and which are chosen, what each saving costs, predicted against measured.

They draw what `schedule` found and compute nothing.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.answer.margins import MARGIN
from analysis.figures import style as figures

LOOKS = {"schedule": (figures.ARMS[0], "o"), "uniform": (figures.ARMS[1], "s"),
         "first quarter exact": (figures.ARMS[2], "^"), "fewer steps, same levels": (figures.ARMS[3], "D"),
         "other": (figures.NULL, "x")}  # fmt: skip
UNIT = "final error (sd of clean results)"


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """The cells and what is chosen of them, and the curve; with a measured run, the curve and how predictions held."""
    with_test = bool(dataset.attrs["measured_samples"])
    canvas, axes = figures.panels(1, 2, width=8.0, height=3.0)
    if with_test:
        _curve(axes[0, 0], dataset)
        _predictions(axes[0, 1], dataset)
    else:
        _cells(canvas, axes[0, 0], dataset)
        _curve(axes[0, 1], dataset)
    figures.letters(axes)
    attrs = dataset.attrs
    heading = f"{attrs['title']} · {attrs['samples']} samples · {attrs['head']} · {attrs['confidence']:.0%} BCa bands"
    note = (
        "Lines: predicted if errors only add, the schedule's chosen on half of the samples and predicted on the other."
    )
    note += " Points: measured" + (f" on {attrs['measured_samples']} samples." if with_test else " in the same run.")
    figures.legend_above(canvas, *axes[0], heading=heading, note=note + figures.few(attrs["samples"]))
    return canvas


def _cells(canvas: Figure, ax: Axes, dataset: xr.Dataset) -> None:
    """Error of one approximated step per layer; a dot on what the schedule approximates."""
    sizes = dataset["size"].transpose("layer", "step").values
    low, high = figures.map_limits([sizes])
    shown = ax.imshow(sizes, origin="lower", aspect="auto", cmap="viridis", norm=figures.LogNorm(low, high))
    canvas.colorbar(shown, ax=ax, label="error of one step alone (sd)")
    layer, step = np.nonzero(dataset["chosen"].transpose("layer", "step").values)
    ax.plot(step, layer, ".", color="white", markeredgecolor="black", markeredgewidth=0.4, markersize=5,
            label="approximated by the schedule")  # fmt: skip
    ax.grid(visible=False)
    figures.progress_axis(ax, dataset.sizes["step"], cells=True)
    every = -(-dataset.sizes["layer"] // 8)
    shown_layers = [] if dataset.attrs["whole"] else range(0, dataset.sizes["layer"], every)
    ax.set_yticks(shown_layers, [str(dataset["layer"].values[place]) for place in shown_layers])
    ax.set_ylabel("whole network" if dataset.attrs["whole"] else "layer")
    ax.set_title(f"Approximated at {float(dataset['saving'][dataset.attrs['plan']]):.0%} saved", loc="left")


def _point(ax: Axes, x: float, interval: np.ndarray, kind: str) -> None:
    """A measured error with its interval."""
    color, marker = LOOKS[kind]
    low, middle, high = interval
    ax.errorbar(x, middle, yerr=[[middle - low], [high - middle]], color=color, marker=marker, linestyle="",
                markerfacecolor="white", markersize=6, linewidth=1, label=f"{kind}, measured")  # fmt: skip


def _curve(ax: Axes, dataset: xr.Dataset) -> None:
    """Expected error against saving, by schedule and by rule, and the arms that were run."""
    lines = {"schedule": dataset["expected"]} | {
        str(rule): dataset["of_rule"].sel(rule=rule) for rule in dataset["rule"].values
    }
    for name, values in lines.items():
        color, marker = LOOKS[name]
        low, middle, high = values.transpose("bound", "plan").values
        figures.band(
            ax, dataset["saving"].values, low, middle, high, color=color, label=name, marker=marker, markersize=2.5
        )
    for place in range(dataset.sizes["tested"]):
        at = dataset.isel(tested=place)
        _point(ax, float(at["tested_saving"]), at["measured"].values, str(at["kind"].values))
    ax.axvline(
        float(dataset["saving"][dataset.attrs["plan"]]), color=figures.NULL, linewidth=0.7, linestyle=figures.DASHES
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("block evaluations saved")
    ax.set_ylabel(UNIT)
    ax.set_title("Error against saving", loc="left")
    figures.log_axis(ax)


def _predictions(ax: Axes, dataset: xr.Dataset) -> None:
    """Measured against predicted; between the dotted lines they agree within the margin."""
    predicted, measured = dataset["predicted"].values, dataset["measured"].values
    told = np.isfinite(predicted[:, 1])
    known = np.concatenate([predicted[told].ravel(), measured[told].ravel()]) if told.any() else np.ones(1)
    for place in np.flatnonzero(told):
        _point(ax, predicted[place, 1], measured[place], str(dataset["kind"].values[place]))
    ends = np.array([known.min() / 1.2, known.max() * 1.2])
    ax.plot(ends, ends, color="black", linewidth=0.7)
    for factor in (MARGIN, 1 / MARGIN):
        ax.plot(ends, ends * factor, color="black", linewidth=0.7, linestyle=":")
    ax.set_xlabel("predicted (sd)")
    ax.set_ylabel("measured (sd)")
    ax.set_title("Does adding predict it?", loc="left")
    figures.log_axis(ax)
    figures.log_axis(ax, "x")
