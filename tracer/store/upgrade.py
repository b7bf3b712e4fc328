"""What schema version 2 added, computed for runs of version 1 when they are opened; their files stay as they are.

Version 1 named its arms by specs only, and its samplers were ddpm, ddim and flow. Their closed forms stand here once
more on purpose: a stored run must read the same whatever becomes of the samplers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from tracer.store.arms import ARM_COORDINATES, LATER, computed

_LEVELS = ("alpha", "sigma", "alpha_after", "sigma_after")
STOCHASTIC = {"ddpm": True, "ddim": False, "flow": False}
FACTORS = {
    "state_factor": "factor of the state in the step's mean; NaN where the step is not affine in it",
    "prediction_factor": "factor of the x0 prediction in the step's mean; NaN where the step is not affine in it",
}
"""Name -> long_name of the sampler's coordinates on `step`: mean = state_factor x + prediction_factor D."""


def upgraded(groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The groups of an opened run with arm coordinates and sampler facts in each that has arms or steps.

    What is there already is left alone.
    """
    root = groups["/"]
    sampler = str(json.loads(root.attrs["config"]).get("sampler", ""))
    added = {} if set(ARM_COORDINATES) - set(LATER) <= set(root.coords) else _of_arms(groups)
    if sampler in STOCHASTIC:
        added |= _of_steps(groups, sampler)
    complete = {}
    for path, data in groups.items():
        fitting = {n: c for n, c in added.items() if n not in data.coords and set(c.dims) <= set(data.sizes)}
        complete[path] = data.assign_coords(fitting)
    if sampler in STOCHASTIC:
        complete["/"].attrs = {"sampler": sampler, "sampler_stochastic": STOCHASTIC[sampler], **root.attrs}
    return complete


def _of_arms(groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Variable]:
    """What the arms' spec strings say."""
    steps = next((data.sizes["step"] for data in groups.values() if "step" in data.sizes), 0)
    coordinates = computed(groups["/"]["arm"].values.tolist(), steps)
    return {name: xr.Variable(dims, values, attrs) for name, (dims, values, attrs) in coordinates.items()}


def _of_steps(groups: Mapping[str, xr.Dataset], sampler: str) -> dict[str, xr.Variable]:
    """What the noise levels say of each step of a known sampler."""
    levels = next((data for data in groups.values() if set(_LEVELS) <= set(data.coords)), None)
    if levels is None:
        return {}
    factors = step_factors(sampler, *(levels[name].values for name in _LEVELS))
    return {
        name: xr.Variable(("step",), values, {"long_name": text, "units": "1"})
        for (name, text), values in zip(FACTORS.items(), factors, strict=True)
    }


def step_factors(
    sampler: str, alpha: np.ndarray, sigma: np.ndarray, alpha_after: np.ndarray, sigma_after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """p and q [step] of the mean p x + q D of each step, x the state and D the x0 prediction.

    ddpm: Ho et al. 2020, algorithm 2, on the respaced chain. ddim: Song et al. 2021, eq. 12 with eta = 0. flow: an
    Euler step of rectified flow (Esser et al. 2024).
    """
    if sampler == "ddpm":
        kept = (alpha / alpha_after) ** 2
        beta = 1 - kept
        return (1 - beta / sigma**2) / np.sqrt(kept), beta * alpha_after / sigma**2
    if sampler == "ddim":
        return sigma_after / sigma, alpha_after - sigma_after * alpha / sigma
    return sigma_after / sigma, (sigma - sigma_after) / sigma
