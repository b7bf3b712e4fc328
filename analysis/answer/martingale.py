"""The check of what the model-free null assumes: that the clean run's prediction is a martingale.

docs/science.md, "The additive null". It says by how much the model departs from it and corrects nothing.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.common import runs, spectrum

LARGEST_ERROR = 0.1
"""Slopes of a larger standard error are not told."""


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
        latent = runs.get(run, "trajectory/latent").astype(np.float64)
        final = latent.isel(step=-1, drop=True)
        _, _, after, _ = runs.levels(run)
        state = _slope(latent, final, by=final) / after
        result = unknown.assign(state=state["slope"], state_error=state["error"])
    else:  # the last DDPM step lands exactly on the prediction made in it
        final = runs.need(run, "trajectory/x0", "null").astype(np.float64).isel(step=-1, drop=True)
        result = unknown
    if not runs.has(run, "trajectory/x0"):
        return result.assign_attrs(note="the clean predictions were not recorded, so only the states could be checked")
    predicted = runs.get(run, "trajectory/x0").astype(np.float64)
    slope = _slope(final, predicted, by=predicted)
    result = result.assign(prediction=slope["slope"], prediction_error=slope["error"])
    return result.assign_attrs(note="slopes of 1: the clean prediction is a martingale, as the model-free null assumes")


def in_words(run: xr.DataTree) -> str:
    """What `martingale` says about the model of a run, in a few words; "" where it could not be checked."""
    try:
        check = martingale(run)
    except runs.RunError:
        return ""
    for name, meaning in (("prediction", "final images on clean predictions"), ("state", "states on final images")):
        values, errors = check[name].values, check[f"{name}_error"].values
        known = values[errors < LARGEST_ERROR]  # early on the signal is too faint for a slope
        if known.size:
            return (
                f"slope of {meaning} {np.median(known):.3f} in the median step, from {known.min():.3f} to "
                f"{known.max():.3f} in the {known.size} of {values.size} steps with a standard error below "
                f"{LARGEST_ERROR:g} (1 is exact)"
            )
    return str(check.attrs["note"])


def _slope(values: xr.DataArray, other: xr.DataArray, by: xr.DataArray) -> xr.Dataset:
    """Ratio Cov(values, other) / Var(by) over samples (`slope`) with its standard error (`error`)."""
    values, other, by = (each - each.mean("sample", skipna=False) for each in (values, other, by))
    top = (values * other).sum(spectrum.STATE, skipna=False)
    bottom = (by**2).sum(spectrum.STATE, skipna=False)
    total = bottom.sum("sample", skipna=False)
    total = total.where(total > 0)
    slope = top.sum("sample", skipna=False) / total
    error = np.sqrt(((top - slope * bottom) ** 2).sum("sample", skipna=False)) / total
    return xr.Dataset({"slope": slope, "error": error}).compute().reset_coords(drop=True)
