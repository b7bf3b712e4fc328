"""The picture of attention sinks: how concentrated they are, where they sit, how they move, what removing them does.

It draws what `sinks` found and computes nothing but means over layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.common import runs
from analysis.figures import style as figures
from analysis.measures import dose_figure, removal

MOST_ARMS = 5  # drawn
MOST_PAIRS = 4  # drawn


@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """Concentration and kinds over steps, position map, overlap of sets, and the effect of removal."""
    effect = "difference" in dataset
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples"
    if "top_mass" not in dataset:
        canvas, axes = figures.panels(1, 1, width=5.0, height=3.0)
        _draw_effect(axes[0, 0], dataset)
        figures.legend_above(canvas, heading=heading, note=_effect_note(dataset).replace("f: e", "E"))
        return canvas
    dosed = "dose_excess" in dataset
    more = effect and (dosed or dataset.sizes["pair"] > MOST_PAIRS)
    canvas, axes = figures.panels(3 if more else 2, 3, width=9.6, height=2.75)
    layers = _shown_layers(dataset.sizes["layer"])
    _draw_concentration(axes[0, 0], dataset, layers)
    _draw_kinds(axes[0, 1], dataset)
    _draw_position(axes[0, 2], dataset)
    _draw_steps(axes[1, 0], dataset)
    arms = [arm for arm in figures.palette(dataset) if arm != runs.CLEAN]
    _draw_clean_overlap(axes[1, 1], dataset, arms[:MOST_ARMS])
    if effect:
        _draw_effect(axes[1, 2], dataset)
    else:
        _draw_gini(axes[1, 2], dataset, layers)
    if more:
        _draw_together(axes[2], dataset, dosed)
    figures.letters(axes)
    note = (
        f"a{'' if effect else ', f'}: bands, {dataset.attrs['spread']}. c: mean over layers and steps. d, e: Jaccard "
        f"overlap of {dataset.attrs['sets']}, mean over layers; e: bars, {dataset.attrs['spread']}; dashed, what two "
        f"samples have in common in the clean arm; dotted, random sets."
    )
    note += _effect_note(dataset) if effect else ""
    note += dose_figure.note(dataset, dosed) if more else ""
    note += figures.left_out(len(arms), len(arms[:MOST_ARMS]))
    figures.legend_above(canvas, axes[1, 1], heading=heading, note=note)
    return canvas


def _draw_together(row: np.ndarray, dataset: xr.Dataset, dosed: bool) -> None:
    """All pairs as intervals in the place of two panels, beside the dose line where there is one."""
    grid = row[0].get_gridspec()
    place = grid[2, 1:] if dosed else grid[2, :2]
    row[1].set_subplotspec(place)
    row[2].set_visible(False)
    row[2].set_in_layout(False)
    dose_figure.draw_intervals(row[1], dataset)
    row[0].set_visible(dosed)
    if dosed:
        dose_figure.draw_dose(row[0], dataset, [str(arm) for arm in dataset["removal"].values])


def _effect_note(dataset: xr.Dataset) -> str:
    """What the panel of the effect shows."""
    pairs = dataset.sizes["pair"]
    return (
        f" f: each line is a sample, each bar a mean; above, mean difference with its "
        f"{dataset.attrs['confidence']:.0%} BCa interval.{figures.few(dataset.attrs['samples'])}"
        + (" Other measures are in the table." if dataset.sizes["measure"] > 1 else "")
        + (f" {MOST_PAIRS} of {pairs} pairs are drawn." if pairs > MOST_PAIRS else "")
    )


def _shown_layers(count: int) -> list[int]:
    """A quarter, half and three quarters of the depth: layers 6, 12 and 18 of the 24 of the sink paper."""
    return sorted({count // 4, count // 2, 3 * count // 4})


def _symbol(place: int) -> dict[str, Any]:
    """The symbols of line number `place` of a panel."""
    return {"marker": figures.SYMBOLS[place], "markersize": 3, "markevery": (0.05 * place, 0.16)}


def _over_layers(ax: Axes, values: xr.DataArray, layers: list[int]) -> None:
    """A line with its band for each of these layers."""
    for place, (color, layer) in enumerate(zip(figures.LAYERS, layers, strict=False)):
        bounds = runs.bounds(values.isel(layer=layer))
        look = {"color": color} | _symbol(place)
        figures.band(ax, values["step"].values, *bounds, label=f"layer {layer}", **look)


def _draw_concentration(ax: Axes, dataset: xr.Dataset, layers: list[int]) -> None:
    _over_layers(ax, dataset["top_mass"].sel(arm=runs.CLEAN, top=1), layers)
    ax.axhline(float(dataset["uniform"]), color=figures.NULL, linestyle=figures.DASHES, linewidth=1, label="uniform")
    figures.log_axis(ax)
    ax.set_title("Mass of the top key, clean", loc="left")
    ax.set_ylabel("share of attention")
    _legend_below(ax)
    figures.progress_axis(ax, dataset.sizes["step"])


def _draw_gini(ax: Axes, dataset: xr.Dataset, layers: list[int]) -> None:
    _over_layers(ax, dataset["gini"].sel(arm=runs.CLEAN), layers)
    ax.set_title("Concentration over tokens, clean", loc="left")
    ax.set_ylabel("Gini coefficient")
    _legend_below(ax)
    figures.progress_axis(ax, dataset.sizes["step"])


def _draw_kinds(ax: Axes, dataset: xr.Dataset) -> None:
    """Share of top keys of each kind over steps (line), beside the kind's share of the tokens (dashes)."""
    x = dataset["step"].values
    if "sink_kind" not in dataset:
        ax.set_visible(False)
        return
    shares = dataset["sink_kind"].sel(arm=runs.CLEAN).mean("layer", skipna=False)
    for place, kind in enumerate(present(dataset)):
        color = figures.KINDS.get(kind, figures.FLOOR)
        ax.plot(x, shares.sel(kind=kind), color=color, label=kind, **_symbol(place))
        ax.axhline(float(dataset["kind_count"].sel(kind=kind)), color=color, linestyle=(0, (2, 2)), linewidth=0.9)
    ax.plot([], [], color=figures.NULL, linestyle=(0, (2, 2)), linewidth=0.9, label="share of all tokens")
    ax.set_ylim(-0.02, 1.02)
    ax.set_title("Kind of the top key, clean", loc="left")
    ax.set_ylabel("share of top keys")
    _legend_below(ax)
    figures.progress_axis(ax, len(x))


def _legend_below(ax: Axes) -> None:
    """A legend of a panel's own colours, clear of the curves."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.03, -0.27), ncols=2, columnspacing=1, handlelength=1.6, borderaxespad=0
    )


def _draw_position(ax: Axes, dataset: xr.Dataset) -> None:
    if "position" not in dataset:
        ax.set_visible(False)
        return
    shown = dataset["position"].sel(arm=runs.CLEAN).mean("layer", skipna=False)
    image = ax.imshow(shown, cmap="viridis", interpolation="nearest")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="mass / uniform")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_title("Mass by position, clean", loc="left")
    ax.set_xlabel("token column")
    ax.set_ylabel("token row")


def _draw_steps(ax: Axes, dataset: xr.Dataset) -> None:
    shown = dataset["step_overlap"].sel(arm=runs.CLEAN).mean("layer", skipna=False)
    image = ax.imshow(shown, cmap="magma", vmin=0, vmax=1, origin="lower", interpolation="nearest")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="overlap")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_title(f"Top {dataset.attrs['top']} between steps, clean", loc="left")
    ax.set_xlabel("step (noise → image)")
    ax.set_ylabel("step")


def _draw_clean_overlap(ax: Axes, dataset: xr.Dataset, arms: list[str]) -> None:
    x = dataset["step"].values
    for place, arm in enumerate(arms):
        overlap = runs.bounds(dataset["clean_overlap"].sel(arm=arm).mean("layer", skipna=False))
        look = figures.look(arm, figures.palette(dataset))
        figures.whiskers(ax, x, *overlap, place=place, of=len(arms), label=arm, **look)
    between = dataset["sample_overlap"].sel(arm=runs.CLEAN).mean("layer", skipna=False)
    ax.plot(x, between, color=figures.NULL, linestyle=figures.DASHES, linewidth=1, label="clean, between samples")
    ax.axhline(float(dataset["chance"]), color=figures.NULL, linestyle=":", linewidth=1, label="random sets")
    ax.set_ylim(-0.02, 1.02)
    ax.set_title(f"Top {dataset.attrs['top']} shared with clean", loc="left")
    ax.set_ylabel("overlap")
    figures.progress_axis(ax, len(x))
    ax.set_xlim(-0.6, len(x) - 0.4)


def _draw_effect(ax: Axes, dataset: xr.Dataset) -> None:
    """Every sample's shift under sink and under random removal, joined, with the mean of each."""
    at = dataset.isel(measure=0, pair=slice(0, MOST_PAIRS))
    removals = np.stack([at["sink_arm"].values, at["random_arm"].values], axis=1).ravel()
    arms = figures.palette(dataset) if "arm" in dataset.dims else [str(arm) for arm in removals]
    ticks: list[float] = []
    labels: list[str] = []
    for place, pair in enumerate(at["pair"].values):
        shift = at["shift"].sel(pair=pair)
        sides = np.array([place - 0.2, place + 0.2])
        ax.plot(sides, shift.transpose("role", "sample"), color=figures.NULL, alpha=0.35, linewidth=0.6)
        for side, role in zip(sides, ("sink", "random"), strict=True):
            color = figures.colour(str(at[f"{role}_arm"].sel(pair=pair).values), arms)
            middle = float(shift.sel(role=role).mean(skipna=False))
            ax.plot([side - 0.09, side + 0.09], [middle, middle], color=color, linewidth=3)
            ticks, labels = [*ticks, side], [*labels, _role(role, str(shift["control"].values))]
        low, mean, high = (float(bound) for bound in runs.bounds(at["difference"].sel(pair=pair)))
        name = figures.wrapped(str(at["sink_arm"].sel(pair=pair).values).removeprefix("sink-"), 12)
        text = f"{name}\n{mean:+.3f}" + (f"\n[{low:.3f}, {high:.3f}]" if at.sizes["pair"] < 4 else "")
        ax.annotate(text, (place, 0.99), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=6)
    ax.set_xticks(ticks, labels, fontsize=7 if len(ticks) < 5 else 6 if len(ticks) < 7 else 4.5)
    ax.set_xlim(-0.6, at.sizes["pair"] - 0.4)
    ax.set_ylim(min(0.0, float(at["shift"].min(skipna=False))), 1.5 * float(at["shift"].max(skipna=False)))
    ax.grid(axis="x", visible=False)
    ax.set_title("Removing sinks or random keys", loc="left")
    ax.set_ylabel(f"{at['measure'].values} distance to clean")


def _role(role: str, control: str) -> str:
    """What a side of a pair is called under its mark: the sinks, or which control it is."""
    words = {removal.MATCHINGS["mass"]: "equal\nmass", removal.MATCHINGS["any"]: "any\nkeys"}
    return role if role == "sink" else words.get(control, role)


def present(dataset: xr.Dataset) -> list[str]:
    """Kinds that some token has."""
    kinds = [str(kind) for kind in dataset["kind"].values]
    return [kind for kind in kinds if "kind_count" not in dataset or float(dataset["kind_count"].sel(kind=kind)) > 0]
