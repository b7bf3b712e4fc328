"""The additive null: what an error would become if nothing but addition happened to it (SCIENCE section 4).

Two nulls: the model-free one of a stochastic sampler (a shift of the x0-prediction travels unchanged in
expectation), and the transport of every injection by the sampler's own Gaussian map, mode by mode. It decides
nothing; `verdict` compares with it.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr

from analysis.common import runs, spectrum

TRANSPORTS = ("sampler", "continuous")


def final_gain(run: xr.DataTree, lam: xr.DataArray, transport: str = "sampler") -> xr.DataArray:
    """Gaussian gain from the state after step i to the final state: (step, *lam.dims).

    "sampler" is the exact product of the discrete steps' gains, "continuous" its limit for small steps: sqrt(lam /
    v) for the ODE samplers, and for DDPM a' lam / v', which is exact at any number of steps.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport {transport!r}: choose one of {', '.join(TRANSPORTS)}")
    _, _, b, u = runs.levels(run)
    after = spectrum.level_variance(b, u, lam)
    if runs.stochastic(run):
        return b * lam / after
    if transport == "continuous":
        return np.sqrt(lam / after)
    gain = spectrum.step_gain(run, lam)
    rest = gain.isel(step=slice(None, None, -1)).cumprod("step").isel(step=slice(None, None, -1))
    return rest.shift(step=-1, fill_value=1.0)


def null_sum(run: xr.DataTree, kind: str | None = None, transport: str = "sampler") -> xr.DataArray:
    """Sum over steps of the null's contributions, as a final state: (arm, sample, channel, y, x).

    `kind` "model-free": the recorded sum of d_k = D_{k+1}(x' + injected_k) - D_{k+1}(x') (stochastic samplers only).
    "gaussian": every recorded injection carried to the end by the sampler's Gaussian map, per DCT mode; see
    `final_gain` for `transport`. None takes the model-free one where it is recorded and the sampler is stochastic.
    attrs["kind"] says which. Raises runs.RunError where nothing fitting was recorded.
    """
    recorded = runs.stochastic(run) and runs.has(run, "decomposition/null_sum")
    kind = kind or ("model-free" if recorded else "gaussian")
    if kind == "model-free":
        if not runs.stochastic(run):
            raise runs.RunError(f"the model-free null needs a stochastic sampler; this run's is {runs.sampler(run)}")
        total = runs.need(run, "decomposition/null_sum", "decomposition,null").astype(np.float64)
        return total.rename("null_sum").assign_attrs(kind=kind)
    if kind != "gaussian":
        raise ValueError(f"null {kind!r}: choose model-free or gaussian")
    injected = runs.need(run, "decomposition/injected", "latents,injected")
    gain = _gain_per_mode(run, injected, transport)

    def carry(block: np.ndarray) -> np.ndarray:
        return spectrum.fields((spectrum.modes(block) * gain[:, None]).sum(-4))

    sizes: dict[Hashable, int] = {name: injected.sizes[name] for name in spectrum.STATE}
    total = spectrum.over_samples(carry, injected, core=(("step", *spectrum.STATE),), out=spectrum.STATE, sizes=sizes)
    return total.rename("null_sum").assign_attrs(kind=kind, transport=transport)


def null_norms(run: xr.DataTree, kind: str | None = None, transport: str = "sampler") -> xr.DataArray:
    """Norm of each step's contribution to the null, (arm, sample, step); arguments as in `null_sum`."""
    recorded = runs.stochastic(run) and runs.has(run, "metrics/null_l2")
    kind = kind or ("model-free" if recorded else "gaussian")
    if kind == "model-free":
        return runs.need(run, "metrics/null_l2", "decomposition,null").astype(np.float64).assign_attrs(kind=kind)
    injected = runs.need(run, "decomposition/injected", "latents,injected")
    gain = final_gain(run, spectrum.data_variance(run), transport)
    norms = (spectrum.ring_energy(injected) * gain**2).sum("ring") ** 0.5
    return norms.rename("null_l2").assign_attrs(kind=kind, transport=transport)


def null_gain(run: xr.DataTree, lam: xr.DataArray | None = None) -> xr.DataArray:
    """Gain that Gaussian data of the same spectrum would give the very delta each step was handed: (arm, sample,
    step).

    g_null = |g(mode) * delta| / |delta| with g the closed form of the step (SCIENCE section 3) and delta the error
    before the step; NaN where that is zero. Dividing the measured gain by it leaves no trace of the noise schedule.
    """
    delta = runs.need(run, "trajectory/delta", "norms,latents")
    lam = spectrum.data_variance(run) if lam is None else lam
    before = spectrum.ring_energy(delta).shift(step=1, fill_value=0.0)
    total = before.sum("ring")
    gain = ((before * spectrum.step_gain(run, lam) ** 2).sum("ring") / total.where(total > 0)) ** 0.5
    return gain.rename("null_gain")


def martingale(run: xr.DataTree) -> xr.Dataset:
    """Is the clean run's prediction a martingale, as the model-free null assumes? Slopes that should be 1, per step.

    `state`: Cov(x_t, x_0) / (alpha Var x_0) with x_t the state after the step and x_0 the final one. The forward
    process makes it 1, and so does a Bayes denoiser with fine steps. It needs the latents only.
    `prediction`: Cov(x_0, D) / Var D with D the clean prediction made in the step, which is the identity
    E[x_0 | x_t] = D itself; NaN unless trajectory/x0 was recorded. Covariances are over samples (about the mean over
    samples) and summed over elements; `*_error` are standard errors. All NaN for ODE samplers, whose null does not
    use the identity; attrs["note"] says so.
    """
    run = runs.complete(run)
    step = run["metrics"].to_dataset()["step"]
    unknown = xr.Dataset({name: xr.full_like(step, np.nan, dtype=float).reset_coords(drop=True) for name in
                          ("state", "state_error", "prediction", "prediction_error")})  # fmt: skip
    if not runs.stochastic(run):
        return unknown.assign_attrs(note=f"not applicable: {runs.sampler(run)} adds no noise, its null is another")
    if runs.has(run, "trajectory/latent"):
        latent = run["trajectory"]["latent"].astype(np.float64)
        final = latent.isel(step=-1, drop=True)
        _, _, after, _ = runs.levels(run)
        state = _slope(latent, final, by=final) / after
        result = unknown.assign(state=state["slope"], state_error=state["error"])
    else:  # the last DDPM step lands exactly on the prediction made in it
        final = runs.need(run, "trajectory/x0", "null").astype(np.float64).isel(step=-1, drop=True)
        result = unknown
    if not runs.has(run, "trajectory/x0"):
        return result.assign_attrs(note="the clean predictions were not recorded, so only the states could be checked")
    predicted = run["trajectory"]["x0"].astype(np.float64)
    found = _slope(final, predicted, by=predicted)
    result = result.assign(prediction=found["slope"], prediction_error=found["error"])
    return result.assign_attrs(note="slopes of 1: the clean prediction is a martingale, as the model-free null assumes")


def _slope(values: xr.DataArray, other: xr.DataArray, by: xr.DataArray) -> xr.Dataset:
    """Ratio Cov(values, other) / Var(by) over samples (`slope`) with its standard error (`error`)."""
    top = ((values - values.mean("sample")) * (other - other.mean("sample"))).sum(spectrum.STATE)
    bottom = ((by - by.mean("sample")) ** 2).sum(spectrum.STATE)
    total = bottom.sum("sample")
    total = total.where(total > 0)
    slope = top.sum("sample") / total
    error = np.sqrt(((top - slope * bottom) ** 2).sum("sample")) / total
    return xr.Dataset({"slope": slope, "error": error}).compute().reset_coords(drop=True)


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
        delta, states, predictions = np.zeros_like(modes[..., 0, :, :, :]), [], []
        for i, (gain, sensitivity) in enumerate(zip(*level, strict=True)):
            new = modes[..., i, :, :, :]
            d_x0 = new * share[..., i, None, None, None]
            predictions.append(spectrum.sum_over_rings((sensitivity * delta + d_x0) ** 2))
            delta = gain * delta + new
            states.append(spectrum.sum_over_rings(delta**2))
        return np.stack([np.stack(states, -2), np.stack(predictions, -2)], -1)  # [..., step, ring, 2]

    energy = spectrum.over_samples(
        follow, injected, per_injection, core=(("step", *spectrum.STATE), ("step",)), out=("step", "ring", "part"),
        sizes={"step": injected.sizes["step"], "ring": lam.sizes["ring"], "part": 2},
    )  # fmt: skip
    return xr.Dataset({"state": energy.isel(part=0), "prediction": energy.isel(part=1)})


def _gain_per_mode(run: xr.DataTree, field: xr.DataArray, transport: str) -> np.ndarray:
    """`final_gain` of every mode of a field: [step, y, x]."""
    gain = final_gain(run, spectrum.data_variance(run), transport).transpose("step", "ring")
    return spectrum.per_mode(gain.values, field.sizes["y"], field.sizes["x"])


def _prediction_share(run: xr.DataTree, injected: xr.DataArray) -> xr.DataArray:
    """|one-pass change of D| / |injection|, (arm, sample, step); from the sampler's mean part where not recorded."""
    if runs.has(run, "metrics/injected_x0_l2"):
        metrics = run["metrics"]
        whole = metrics["injected_l2"].astype(np.float64)
        return (metrics["injected_x0_l2"] / whole.where(whole > 0, 1.0)).reset_coords(drop=True)
    each = xr.ones_like(injected.isel(channel=0, y=0, x=0, drop=True), dtype=np.float64).reset_coords(drop=True)
    return each / spectrum.injection_factor(run)
