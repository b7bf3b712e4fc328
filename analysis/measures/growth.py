"""How far a changed trajectory is from its clean twin, step by step, in three coordinates and beside what addition
alone would give.

A rising curve proves nothing about compounding (docs/science.md, "The trap"), so the sentence and the figure describe;
`verdict` decides.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import null
from analysis.common import floor, nouns, runs, spectrum, statistics
from analysis.figures import style as figures
from analysis.measure import shipped

COORDINATES = ("raw", "x0", "whitened")
LABELS = {
    "raw": ("State error", "error (sd of clean states)"),
    "x0": ("Predicted-image error", "error (sd of clean images)"),
    "whitened": ("Whitened error", "error (sd, ring by ring)"),
}
MOST_ARMS = 8  # drawn
INJECTED_NULL = "injected"
SHAPE_NULL = "shape"
NOTES = {
    INJECTED_NULL: (
        "Additive Gaussian null: this run's own injections, carried on by the sampler's linear map for Gaussian data "
        "of the same spectrum. Guidance and nonlinearity are what it leaves out."
    ),
    SHAPE_NULL: (
        "Shape of an additive null: a Gaussian system given x0-errors of equal size at every {acted} step, at random "
        "(one edge) or all alike (other edge), scaled to the observed final error. Only its shape can be compared; "
        "record decomposition for the null itself."
    ),
}
NULL_LABELS = {
    INJECTED_NULL: "if errors only added up (additive Gaussian null)",
    SHAPE_NULL: "shape of errors that only add up",
}
MEANING = (
    "Error: {acted} minus clean, root mean square over the picture, in units of the standard deviation of clean states "
    "(a), of clean images (b), of clean states in each ring of spatial frequency (c); log scale."
)


@shipped
def growth(run: xr.DataTree, *, statistic: str = "median", confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Error per step of every intervened arm, with BCa bands over samples, the numerical floor and an additive
    Gaussian null.

    Dimensions: coordinate (raw, x0, whitened), arm, sample, step. `error` is relative: raw is |delta| / sqrt(d v_t)
    after each step with v_t = alpha^2 lam + sigma^2 and lam the variance of the clean final states; x0 is the
    difference of the predictions made in each step over sqrt(d lam); whitened is |V_t^-1/2 delta| / sqrt(d), V_t
    the clean states' variance per radial DCT ring (`spectrum.ring_variance`). `error_interval` summarises it over
    samples along `bound` (low, estimate, high); `null_interval` is the null, whose kind is in attrs["null"]; `floor` is
    the `full` arm's error (NaN without one). `one_pass_interval` (with the decomposition): the x0 error that the
    arm makes in a single pass at the clean state, which is what a classifier would suffer. Raises RunError where the
    clean latents were not recorded. Source: docs/science.md, "Coordinates and closed forms".
    """
    run = runs.complete(run)
    error, scale = _errors(run)
    arms = runs.arms(run)
    if not arms:
        raise runs.RunError("this run has no intervened arm: add one with `trace run ... --mask R4S32`")
    masked = error.sel(arm=[arm.name for arm in arms])

    def over_samples(values: xr.DataArray) -> xr.DataArray:
        return runs.summary(values, statistic, confidence=confidence, seed=seed)

    result = xr.Dataset({"error": masked, "error_interval": over_samples(masked)})
    if runs.has(run, "decomposition/injected"):
        kind, result["null_interval"] = INJECTED_NULL, over_samples(_injected_null(run, masked, scale))
    else:
        kind, result["null_interval"] = SHAPE_NULL, _shape_band(run, arms, masked, scale)
    own = floor.measured(run, error)
    unknown = masked.isel(arm=0, sample=0, drop=True) * np.nan
    result["floor"] = unknown if own is None else own.median("sample", skipna=True)
    if runs.has(run, "metrics/injected_x0_l2"):
        one_pass = runs.plain(
            runs.get(run, "metrics/injected_x0_l2").sel(arm=masked["arm"]).astype(np.float64).compute()
        )
        result["one_pass_interval"] = over_samples(one_pass / np.sqrt(scale["count"] * scale["mean_variance"]))
    coords = run["metrics"].ds.coords
    result = result.assign_coords(
        {name: coords[name] for name in ("timestep", "log_snr", "sigma_after") if name in coords}
    )
    result, called = runs.with_arms(result, run), nouns.Wording(nouns.of_runs([run]))
    result.attrs = {
        "title": runs.title(run), "statistic": statistic, "confidence": confidence, "samples": masked.sizes["sample"],
        "null": kind, "null_meaning": NOTES[kind].format(acted=called.acted),
        "whitening": "variance of clean states per radial DCT ring, pooled over channels, shrunk to a log-log line",
        "data_variance": float(scale["mean_variance"]),
    }  # fmt: skip
    return result


def _errors(run: xr.DataTree) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    latent = runs.need(run, "trajectory/latent", "norms,latents")
    size = spectrum.ring_size(latent)
    clean = spectrum.clean_variance(run)
    lam = clean.isel(step=-1, drop=True)
    mean = spectrum.mean_variance(latent.isel(step=-1, drop=True)).compute()
    _, _, b, u = runs.levels(run)
    scale = {"count": size.sum("ring", skipna=False), "lam": lam, "mean_variance": mean, "ring": clean}
    scale["state"] = spectrum.level_variance(b, u, mean)
    names = runs.names(run, floor=True)
    prediction = runs.plain(runs.get(run, "metrics/x0_l2").sel(arm=names)).compute() ** 2
    if runs.has(run, "trajectory/delta"):
        energy = spectrum.recorded_energy(run, "trajectory/delta", names).compute()
    else:
        energy = runs.plain(runs.get(run, "metrics/delta_l2").sel(arm=names)).compute().expand_dims(ring=[-1]) ** 2
    return _relative(energy, prediction, scale), scale


def _relative(energy: xr.DataArray, prediction: xr.DataArray, scale: dict[str, xr.DataArray]) -> xr.DataArray:
    """Energies (per ring, of the state; total, of the prediction) as relative errors along `coordinate`."""
    count = scale["count"]
    resolved = energy.sizes["ring"] == scale["ring"].sizes["ring"]
    raw = (energy.sum("ring", skipna=False) / (count * scale["state"])) ** 0.5
    whitened = ((energy / scale["ring"]).sum("ring", skipna=False) / count) ** 0.5 if resolved else raw * np.nan
    x0 = (prediction / (count * scale["mean_variance"])) ** 0.5
    joined = xr.concat(
        [raw, x0, whitened], dim=xr.Variable("coordinate", list(COORDINATES)), coords="minimal", compat="override"
    )
    return joined.transpose("coordinate", ..., "sample", "step")


def _injected_null(run: xr.DataTree, masked: xr.DataArray, scale: dict[str, xr.DataArray]) -> xr.DataArray:
    """The relative error of a Gaussian system under this run's own injections, with the dimensions of `masked`."""
    path = null.transported(run, scale["lam"]).sel(arm=masked["arm"]).compute().reset_coords(drop=True)
    return _relative(path["state"], path["prediction"].sum("ring", skipna=False), scale)


def _shape_band(
    run: xr.DataTree, arms: list[runs.Arm], masked: xr.DataArray, scale: dict[str, xr.DataArray]
) -> xr.DataArray:
    """The shape nulls of the arms, scaled to the observed final error: low and high are its two edges, no estimate."""
    shapes = [_shape_null(run, arm, scale["mean_variance"]) for arm in arms]
    shape = xr.concat(shapes, dim=masked["arm"])  # (arm, kind, coordinate, step)
    final = masked.isel(step=-1, drop=True).median("sample", skipna=False)
    shape = shape / shape.isel(step=-1, drop=True) * final
    low, high = shape.min("kind", skipna=False), shape.max("kind", skipna=False)
    return xr.concat([low, low * np.nan, high], dim=xr.Variable("bound", list(statistics.BOUNDS)))


def _shape_null(run: xr.DataTree, arm: runs.Arm, lam: xr.DataArray) -> xr.DataArray:
    """Root-mean-square error (kind, coordinate, step) of one Gaussian mode under unit x0-errors at the masked
    steps, random or steady. An arm with a pause acts on no single window and has none.
    """
    gain, sensitivity = spectrum.step_gain(run, lam).values, spectrum.x0_sensitivity(run, lam).values
    push = spectrum.injection_factor(run).values
    window = range(0) if arm.paused else arm.window
    push = np.where(np.isin(np.arange(push.size), list(window)), push, 0.0)
    _, _, alpha, sigma = runs.levels(run)
    spread = np.sqrt(spectrum.level_variance(alpha, sigma, lam)).values
    kinds = []
    for steady in (False, True):
        state, states, predictions = 0.0, [], []
        for g, c, k in zip(gain, sensitivity, push, strict=True):
            unit = float(k != 0)
            predictions.append(c * state + unit if steady else np.hypot(c * state, unit))
            state = g * state + k if steady else np.hypot(g * state, k)
            states.append(state)
        raw = np.array(states) / spread
        kinds.append(np.stack([raw, np.array(predictions), raw]))
    return xr.DataArray(np.stack(kinds), dims=("kind", "coordinate", "step"), coords={"coordinate": list(COORDINATES)})


# --- presentation ---


@growth.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and measure, with intervals, the null and the floor.

    The measures are the final raw and whitened errors and the x0 error at 10, 50 and 90 % of the steps.
    """
    last = dataset.sizes["step"] - 1
    places = [("final state error", "raw", last)]
    places += [(f"x0 error at {percent}% of steps", "x0", round(last * percent / 100)) for percent in (10, 50, 90)]
    places += [("final whitened error", "whitened", last)]
    rows = []
    for arm in dataset["arm"].values:
        for name, coordinate, step in places:
            at = dataset.sel(arm=arm, coordinate=coordinate).isel(step=step)
            low, value, high = (float(bound) for bound in runs.bounds(at["error_interval"]))
            null_low, _, null_high = (float(bound) for bound in runs.bounds(at["null_interval"]))
            row = {"arm": str(arm), "measure": name, "value": value, "low": low, "high": high}
            rows.append(row | {"null low": null_low, "null high": null_high, "floor": float(at["floor"])})
    return pd.DataFrame(rows)


@growth.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """What the curves show, and no more."""
    parts = []
    shown, rest = runs.to_tell(dataset)
    for arm in shown:
        at = dataset.sel(arm=arm, coordinate="raw").isel(step=-1)
        low, error, high = (float(bound) for bound in runs.bounds(at["error_interval"]))
        text = f"{arm} ends {error:.3g} [{low:.3g}, {high:.3g}] from its clean twin"
        if dataset.attrs["null"] == INJECTED_NULL:
            alone = float(runs.bounds(at["null_interval"])[1])
            carried = (
                f", carried by the sampler: {alone:.3g}" if np.isfinite(alone) else ": this sampler has no factors"
            )
            text += f" (addition alone{carried})"
        parts.append(text)
    least = float(dataset["floor"].sel(coordinate="raw").isel(step=-1))
    tail = f" The numerical floor is {f'{least:.1e}' if least else '0 (bit-identical)'}." if np.isfinite(least) else ""
    head = f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples, error in units of the data's spread"
    warning = (
        " A rising curve by itself does not show that the error compounds, because additive samplers rise too; "
        "`trace analyze verdict` tests it."
    )
    return f"{head}: {'; '.join(parts)}{rest}.{tail}{warning}"


@growth.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """The same run in raw, x0 and whitened coordinates, with the additive Gaussian null."""
    arms, steps, called = runs.to_draw(dataset, MOST_ARMS), dataset.sizes["step"], nouns.wording(dataset)
    canvas, axes = figures.panels(1, 3, width=7.6, height=3.1)
    for ax, coordinate in zip(axes[0], COORDINATES, strict=True):
        _panel(ax, dataset.sel(coordinate=coordinate), arms)
        if coordinate == "x0" and "one_pass_interval" in dataset:
            for arm in arms:
                once = runs.bounds(dataset["one_pass_interval"].sel(arm=arm))[1]
                color = figures.colour(arm, figures.palette(dataset))
                figures.one_pass(ax, np.arange(steps), once, color=color, acted=called.acted)
        name, unit = LABELS[coordinate]
        ax.set_title(name, loc="left")
        ax.set_ylabel(unit)
        figures.log_axis(ax)
        figures.progress_axis(ax, steps)
    figures.letters(axes)
    kind, samples = dataset.attrs["null"], dataset.attrs["samples"]
    statistic = f"{dataset.attrs['statistic']}, {dataset.attrs['confidence']:.0%} BCa bands"
    heading = f"{dataset.attrs['title']} · {samples} samples · {statistic}"
    note = f"{MEANING} {NOTES[kind]}".format(acted=called.acted)
    note += f"{figures.few(samples)}{figures.left_out(dataset.sizes['arm'], len(arms))}"
    figures.legend_above(canvas, axes[0, 0], axes[0, 1], heading=heading, note=note)
    return canvas


def _panel(ax: Axes, view: xr.Dataset, arms: list[str]) -> None:
    """The arms' nulls, errors and the floor in one coordinate."""
    x, every, label = np.arange(view.sizes["step"]), figures.palette(view), NULL_LABELS[view.attrs["null"]]
    for arm in arms:
        figures.band(ax, x, *runs.bounds(view["error_interval"].sel(arm=arm)), label=arm, **figures.look(arm, every))
    for arm in arms:
        edges = runs.bounds(view["null_interval"].sel(arm=arm))
        figures.arm_null(ax, x, *edges, color=figures.colour(arm, every), label=label)
    typical = runs.bounds(view["error_interval"].sel(arm=arms))[1]
    lowest, first = float(typical.where(typical > 0).min(skipna=True)), str(view["coordinate"].values) == COORDINATES[0]
    figures.floor_line(ax, x, view["floor"], lowest=lowest, named=first)
