"""The additive null: what an error would become if nothing but addition happened to it (SCIENCE section 4).

Two nulls: the model-free one of a stochastic sampler (a shift of the x0-prediction travels unchanged in
expectation), and the transport of every injection by the sampler's own Gaussian map, mode by mode. It decides
nothing; `verdict` compares with it.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis import runs, spectrum

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


def transported(run: xr.DataTree, lam: xr.DataArray | None = None) -> xr.Dataset:
    """The path an additive Gaussian system takes under this run's own injections, as energy per ring: (arm, sample,
    step, ring).

    `state`: |null delta|^2 after each step, null delta' = g * null delta + injected with g the Gaussian step gain
    of the ring. `prediction`: |null d_D|^2 made in each step: dD/dx * null delta + d_D(injected). For DDPM the
    direction of d_D is that of the whole injection and its size that of the mean part, which is exact when the
    variance head is not touched. Needs decomposition/injected.
    """
    injected = runs.need(run, "decomposition/injected", "decomposition")
    lam = spectrum.data_variance(run) if lam is None else lam
    height, width = injected.sizes["y"], injected.sizes["x"]
    share = _mean_share(run, injected)
    level = [
        spectrum.per_mode(values.transpose("step", "ring").values, height, width)
        for values in (spectrum.step_gain(run, lam), spectrum.x0_sensitivity(run, lam))
    ]
    factor = spectrum.injection_factor(run).values

    def follow(block: np.ndarray, mean_share: np.ndarray) -> np.ndarray:
        modes = spectrum.modes(block)  # [..., step, channel, y, x]
        delta, states, predictions = np.zeros_like(modes[..., 0, :, :, :]), [], []
        for i, (gain, sensitivity) in enumerate(zip(*level, strict=True)):
            new = modes[..., i, :, :, :]
            d_x0 = new * (mean_share[..., i] / factor[i])[..., None, None, None]
            predictions.append(spectrum.sum_over_rings((sensitivity * delta + d_x0) ** 2))
            delta = gain * delta + new
            states.append(spectrum.sum_over_rings(delta**2))
        return np.stack([np.stack(states, -2), np.stack(predictions, -2)], -1)  # [..., step, ring, 2]

    energy = spectrum.over_samples(
        follow, injected, share, core=(("step", *spectrum.STATE), ("step",)), out=("step", "ring", "part"),
        sizes={"step": injected.sizes["step"], "ring": lam.sizes["ring"], "part": 2},
    )  # fmt: skip
    return xr.Dataset({"state": energy.isel(part=0), "prediction": energy.isel(part=1)})


def _mean_share(run: xr.DataTree, injected: xr.DataArray) -> xr.DataArray:
    if not runs.has(run, "metrics/injected_mean_l2"):
        return xr.ones_like(injected.isel(channel=0, y=0, x=0, drop=True), dtype=np.float64).reset_coords(drop=True)
    metrics = run["metrics"]
    whole = metrics["injected_l2"].astype(np.float64)
    return (metrics["injected_mean_l2"] / whole.where(whole > 0, 1.0)).reset_coords(drop=True)
