"""The additive null: what an error would become if nothing but addition happened to it.

Two nulls (docs/science.md, "The additive null"): the model-free one of a stochastic sampler (a shift of the
x0-prediction travels unchanged in expectation), and the transport of every injection by the sampler's own Gaussian map,
mode by mode. It decides nothing; `verdict` compares with it, and `martingale` checks what the first one assumes.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.about import KINDS
from analysis.common import runs, spectrum
from analysis.figures import style as figures
from analysis.measure import shipped

TRANSPORTS = ("sampler", "continuous")
MOST_ARMS = 8  # drawn


@shipped
def null(run: xr.DataTree, kind: str | None = None, *, transport: str = "sampler") -> xr.Dataset:
    """The additive null of every intervened arm and sample, and what each step contributes to it.

    `size` (arm, sample): norm of the sum of all contributions, in the units of the final state, which an error that
    only adds up would have. `step_size` (arm, sample, step): norm of each step's contribution, where it was recorded;
    `path`: their sum over steps; `coherence` = size / path, 1 where all contributions point the same way. `*_interval`
    are geometric means over samples with BCa limits. `kind` and `transport` as in `null_sum`; attrs["kind"] says which
    null it is. Raises RunError where neither a null nor injections were recorded.
    """
    run = runs.complete(run)
    names = runs.names(run)
    total = null_sum(run, kind, transport).sel(arm=names)
    result = xr.Dataset({"size": spectrum.norm(total).compute()})
    try:
        steps = runs.plain(null_norms(run, total.attrs["kind"], transport)).sel(arm=names).compute()
    except runs.RunError:
        steps = None
    if steps is not None:
        result["step_size"], result["path"] = steps, steps.sum("step", skipna=False)
        result["coherence"] = result["size"] / result["path"].where(result["path"] > 0)
    for name in ("size", "coherence"):
        if name in result:
            result[f"{name}_interval"] = runs.geometric(result[name])
    result = runs.with_arms(result, run)
    result.attrs = {"title": runs.title(run), "samples": result.sizes["sample"], "kind": total.attrs["kind"]}
    return result


# --- the nulls as fields and norms ---


def final_gain(run: xr.DataTree, lam: xr.DataArray, transport: str = "sampler") -> xr.DataArray:
    """Gaussian gain from the state after step i to the final state: (step, *lam.dims).

    "sampler" is the exact product of the discrete steps' gains, "continuous" its limit for small steps: sqrt(lam / v)
    for the ODE samplers, and for stochastic ones alpha lam / v, which DDPM has at any number of steps.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport {transport!r}: choose one of {', '.join(TRANSPORTS)}")
    if transport == "continuous":
        _, _, alpha, sigma = runs.levels(run)
        after = spectrum.level_variance(alpha, sigma, lam)
        return alpha * lam / after if runs.stochastic(run) else np.sqrt(lam / after)
    gain = spectrum.step_gain(run, lam)
    rest = gain.isel(step=slice(None, None, -1)).cumprod("step", skipna=False).isel(step=slice(None, None, -1))
    return rest.shift(step=-1, fill_value=1.0)


def default_kind(run: xr.DataTree) -> str:
    """The null that a run is held against: model-free for a stochastic sampler, gaussian for the others."""
    return "model-free" if runs.stochastic(run) else "gaussian"


def null_sum(run: xr.DataTree, kind: str | None = None, transport: str = "sampler") -> xr.DataArray:
    """Sum over steps of the null's contributions, as a final state: (arm, sample, channel, y, x).

    `kind` "model-free": the recorded sum of d_k = D_{k+1}(x' + injected_k) - D_{k+1}(x') (stochastic samplers only).
    "gaussian": every recorded injection carried to the end by the sampler's Gaussian map, per DCT mode; see
    `final_gain` for `transport`. None takes the model-free one where it is recorded and the sampler is stochastic.
    attrs["kind"] says which. Raises RunError where nothing fitting was recorded.
    """
    if _kind(run, kind, "decomposition/null_sum") == "model-free":
        if not runs.stochastic(run):
            raise runs.RunError(f"the model-free null needs a stochastic sampler; this run's is {runs.sampler(run)}")
        total = runs.need(run, "decomposition/null_sum", "decomposition,null").astype(np.float64)
        return total.rename("null_sum").assign_attrs(kind="model-free")
    injected = runs.need(run, "decomposition/injected", "latents,injected")
    gain = _gain_per_mode(run, injected, transport)

    def carry(block: np.ndarray) -> np.ndarray:
        return spectrum.fields((spectrum.modes(block) * gain[:, None]).sum(-4))

    sizes: dict[Hashable, int] = {name: injected.sizes[name] for name in spectrum.STATE}
    total = spectrum.over_samples(carry, injected, core=(("step", *spectrum.STATE),), out=spectrum.STATE, sizes=sizes)
    return total.rename("null_sum").assign_attrs(kind="gaussian", transport=transport)


def null_norms(run: xr.DataTree, kind: str | None = None, transport: str = "sampler") -> xr.DataArray:
    """Norm of each step's contribution to the null, (arm, sample, step); arguments as in `null_sum`."""
    if _kind(run, kind, "metrics/null_l2") == "model-free":
        return (
            runs.need(run, "metrics/null_l2", "decomposition,null").astype(np.float64).assign_attrs(kind="model-free")
        )
    runs.need(run, "decomposition/injected", "latents,injected")
    energy = spectrum.recorded_energy(run, "decomposition/injected")
    norms = (energy * _known_gain(run, transport) ** 2).sum("ring", skipna=False) ** 0.5
    return norms.rename("null_l2").assign_attrs(kind="gaussian", transport=transport)


def _kind(run: xr.DataTree, kind: str | None, recorded: str) -> str:
    """The null that is meant: the model-free one where it stands at this path, unless another is asked for."""
    kind = kind or (default_kind(run) if runs.has(run, recorded) else "gaussian")
    if kind not in KINDS:
        raise ValueError(f"null {kind!r}: choose {' or '.join(KINDS)}")
    return kind


def null_gain(run: xr.DataTree, lam: xr.DataArray | None = None) -> xr.DataArray:
    """Gain that Gaussian data of the same spectrum would give the very delta each step was handed: (arm, sample,
    step).

    g_null = |g(mode) * delta| / |delta| with g the closed form of the step (`spectrum.step_gain`) and delta the error
    before the step; NaN where that is zero. Dividing the measured gain by it leaves no trace of the noise schedule.
    """
    runs.need(run, "trajectory/delta", "norms,latents")
    lam = spectrum.data_variance(run) if lam is None else lam
    before = spectrum.recorded_energy(run, "trajectory/delta").shift(step=1, fill_value=0.0)
    total = before.sum("ring", skipna=False)
    after = (before * spectrum.step_gain(run, lam) ** 2).sum("ring", skipna=False)  # a gain that is NaN is no gain of 0
    gain = (after / total.where(total > 0)) ** 0.5
    return gain.rename("null_gain")


def transported(run: xr.DataTree, lam: xr.DataArray | None = None) -> xr.Dataset:
    """The path an additive Gaussian system takes under this run's own injections, as energy per ring: (arm, sample,
    step, ring).

    `state`: |null delta|^2 after each step, null delta' = g * null delta + injected with g the Gaussian step gain
    of the ring. `prediction`: |null d_D|^2 made in each step: dD/dx * null delta + the one-pass change of D. Of
    that the size is recorded and the direction taken from the injection, which is exact unless a DDPM mask moves
    the variance head. Needs decomposition/injected.
    """
    injected = runs.need(run, "decomposition/injected", "latents,injected")
    lam = spectrum.data_variance(run) if lam is None else lam
    height, width = injected.sizes["y"], injected.sizes["x"]
    per_injection = _prediction_share(run, injected)
    level = [
        spectrum.per_mode(values.transpose("step", "ring").values, height, width)
        for values in (spectrum.step_gain(run, lam), spectrum.x0_sensitivity(run, lam))
    ]

    def follow(block: np.ndarray, share: np.ndarray) -> np.ndarray:
        modes = spectrum.modes(block)  # [..., step, channel, y, x]
        per_mode = modes.sum(-3)  # [..., step, y, x], filled below
        squares = np.stack([per_mode, per_mode])
        delta = np.zeros_like(modes[..., 0, :, :, :])
        for i, (gain, sensitivity) in enumerate(zip(*(each.astype(modes.dtype) for each in level), strict=True)):
            new = modes[..., i, :, :, :]
            d_x0 = sensitivity * delta + new * share[..., i, None, None, None].astype(modes.dtype)
            delta = gain * delta + new
            for part, field in enumerate((delta, d_x0)):
                squares[part, ..., i, :, :] = (field * field).sum(-3)
        return np.moveaxis(spectrum.over_modes(squares), 0, -1)  # [..., step, ring, part]

    energy = spectrum.over_samples(
        follow, injected, per_injection, core=(("step", *spectrum.STATE), ("step",)), out=("step", "ring", "part"),
        sizes={"step": injected.sizes["step"], "ring": lam.sizes["ring"], "part": 2},
    )  # fmt: skip
    return xr.Dataset({"state": energy.isel(part=0), "prediction": energy.isel(part=1)})


def _known_gain(run: xr.DataTree, transport: str) -> xr.DataArray:
    """`final_gain` of the rings, (step, ring). Raises RunError where the sampler states no such gain."""
    gain = final_gain(run, spectrum.data_variance(run), transport)
    if gain.isnull().any():
        raise runs.RunError(
            f"the steps of {runs.sampler(run)} are not linear in state and prediction, so there is no Gaussian null: "
            "use a sampler that states its factors, such as --sampler ddim"
        )
    return gain


def _gain_per_mode(run: xr.DataTree, field: xr.DataArray, transport: str) -> np.ndarray:
    """`final_gain` of every mode of a field: [step, y, x]."""
    gain = _known_gain(run, transport).transpose("step", "ring")
    return spectrum.per_mode(gain.values, field.sizes["y"], field.sizes["x"])


def _prediction_share(run: xr.DataTree, injected: xr.DataArray) -> xr.DataArray:
    """|one-pass change of D| / |injection|, (arm, sample, step); from the sampler's mean part where not recorded."""
    if runs.has(run, "metrics/injected_x0_l2"):
        metrics = run["metrics"]
        whole = metrics["injected_l2"].astype(np.float64)
        return (metrics["injected_x0_l2"] / whole.where(whole > 0, 1.0)).reset_coords(drop=True)
    each = xr.ones_like(injected.isel(channel=0, y=0, x=0, drop=True), dtype=np.float64).reset_coords(drop=True)
    return each / spectrum.injection_factor(run)


# --- presentation ---


@null.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm: the null's size with its interval, its path over the steps and its coherence."""
    rows = []
    for arm in dataset["arm"].values:
        at = dataset.sel(arm=arm)
        low, size, high = (float(bound) for bound in runs.bounds(at["size_interval"]))
        row = {"arm": str(arm), "null": size, "low": low, "high": high}
        if "path" in at:
            row["path"] = float(at["path"].mean(skipna=False))
            row["coherence"] = float(runs.bounds(at["coherence_interval"])[1])
        rows.append(row)
    return pd.DataFrame(rows)


@null.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The null's size of every whole arm, and how much of its path adds up."""
    texts = []
    told, rest = runs.to_tell(dataset)
    for arm in told:
        at = dataset.sel(arm=arm)
        low, size, high = (float(bound) for bound in runs.bounds(at["size_interval"]))
        text = f"{arm}: addition alone gives {size:.3g} [{low:.3g}, {high:.3g}]"
        if "coherence" in at:
            text += f", {float(runs.bounds(at['coherence_interval'])[1]):.0%} of the sum of its steps"
        texts.append(text)
    head = f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples, {dataset.attrs['kind']} null"
    return f"{head}. {'; '.join(texts)}{rest}."


@null.presents("figure")
@figures.styled
def figure(dataset: xr.Dataset) -> Figure:
    """What each step contributes to the null, mean over samples, one line per arm; else every sample's whole size."""
    arms = runs.to_draw(dataset, MOST_ARMS)
    canvas, axes = figures.panels(1, 1, width=4.6, height=3.0)
    axis = axes[0, 0]
    for row, arm in enumerate(arms):
        at, color = dataset.sel(arm=arm), figures.colour(arm, arms)
        if "step_size" in at:
            axis.plot(np.arange(at.sizes["step"]), at["step_size"].mean("sample", skipna=False), color=color, label=arm)
        else:
            axis.plot(at["size"], np.full(at.sizes["sample"], row), ".", color=color, label=arm)
    if "step_size" in dataset:
        axis.set_ylabel("contribution at the final state")
        figures.progress_axis(axis, dataset.sizes["step"])
        figures.log_axis(axis)
    else:
        axis.set_xlabel("size at the final state")
        axis.set_yticks([])
    axis.set_title("Additive null", loc="left")
    heading = f"{dataset.attrs['title']} · {dataset.attrs['samples']} samples · {dataset.attrs['kind']} null"
    figures.legend_above(canvas, axis, heading=heading, note=figures.left_out(dataset.sizes["arm"], len(arms)).strip())
    return canvas
