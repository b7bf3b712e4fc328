"""States in a cosine basis: radial rings and bands, the variance of clean states per ring, whitening, and Gaussian
step gains.

Natural states are nearly diagonal in a DCT basis, so a sampler acts on each mode almost by itself and the closed
forms of Gaussian data apply mode by mode. This module only transforms and reduces; what the numbers mean is said in
`growth`, `null` and `bands`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import pairwise

import dask
import numpy as np
import scipy.fft
import xarray as xr

from analysis.common.runs import get, has, levels, need, of_steps, plain
from interventions.rings import count, members, rings

STATE = ("channel", "y", "x")
FLOOR = 1e-4  # smallest variance of a ring relative to the mean over modes: whitening stays finite without energy
LEAST_LEFT = 1e-4  # of a ring's energy, when that of the mean is taken away, so that rounding stays below 1e-3 of it
PRIOR_COEFFICIENTS = 4.0  # weight of the log-log line that a ring's variance is shrunk to, in independent coefficients


def norm(field: xr.DataArray) -> xr.DataArray:
    """|field| over channel, y and x, in float64; NaN where any element is. Only the coordinates of dimensions stay."""
    return plain((field.astype(np.float64) ** 2).sum(STATE, skipna=False) ** 0.5)


def elements(field: xr.DataArray) -> int:
    """Number of elements d of one state."""
    return int(np.prod([field.sizes[name] for name in STATE]))


def band_edges(height: int, width: int) -> np.ndarray:
    """Octave bands of rings: 0, 1, 2-3, 4-7, 8-15, ...; edges [bands + 1], half-open."""
    top = rings(height, width).max() + 1
    edges = [0, 1]
    while edges[-1] < top:
        edges.append(min(2 * edges[-1], top))
    return np.array(edges)


def band_names(edges: np.ndarray) -> list[str]:
    """Names of octave bands in half cycles per image, such as "4-7"."""
    return [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(edges)]


def modes(values: np.ndarray) -> np.ndarray:
    """Orthonormal DCT-II over the last two axes, so sums of squares are preserved; float32 stays float32, which rounds
    the energy of a ring by some 1e-7.
    """
    values = np.asarray(values)
    exact = values if values.dtype == np.float32 else values.astype(np.float64)
    return scipy.fft.dctn(exact, type=2, norm="ortho", axes=(-2, -1))


def fields(coefficients: np.ndarray) -> np.ndarray:
    """Inverse of `modes`."""
    return scipy.fft.idctn(np.asarray(coefficients, dtype=np.float64), type=2, norm="ortho", axes=(-2, -1))


def sum_over_rings(values: np.ndarray) -> np.ndarray:
    """Sum of `values` [..., channel, y, x] over channels and the modes of each ring: float64 [..., ring]."""
    return over_modes(values.sum(axis=-3))


def over_modes(values: np.ndarray) -> np.ndarray:
    """Sum of `values` [..., y, x] over the modes of each ring: float64 [..., ring]."""
    height, width = values.shape[-2:]
    flat = values.reshape(-1, height * width) @ members(height, width).astype(values.dtype)
    return flat.astype(np.float64).reshape(*values.shape[:-2], -1)


def over_samples(
    function, *arrays: xr.DataArray, core: tuple, out: tuple, sizes: Mapping[Hashable, int]
) -> xr.DataArray:
    """Apply a numpy function over the core dimensions of (possibly lazy) arrays; `out` names the new last axes."""
    return xr.apply_ufunc(
        function,
        *arrays,
        input_core_dims=list(core),
        output_core_dims=[list(out)],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": dict(sizes), "allow_rechunk": True},
    )


def ring_energy(field: xr.DataArray) -> xr.DataArray:
    """Energy of a field (..., channel, y, x) per ring: (..., ring); lazy in, lazy out."""
    found = count(field.sizes["y"], field.sizes["x"])
    energy = over_samples(
        lambda values: sum_over_rings(modes(values) ** 2), field, core=(STATE,), out=("ring",), sizes={"ring": found}
    )
    return energy.assign_coords(ring=np.arange(found))


def recorded_energy(run: xr.DataTree, path: str, arms: list[str] | None = None) -> xr.DataArray:
    """Energy per ring of a field of the run, such as "trajectory/delta": (..., ring), float64, lazy as the run is.

    Read where the run recorded it, else computed from the field. `arms`: of these alone.
    """
    recorded = has(run, f"{path}_energy")
    values = get(run, f"{path}_energy") if recorded else get(run, path)
    values = values if arms is None else values.sel(arm=arms)
    return plain(values) if recorded else ring_energy(values).reset_coords(drop=True)


def ring_size(field: xr.DataArray) -> xr.DataArray:
    """Number of coefficients in each ring, channels included."""
    index = rings(field.sizes["y"], field.sizes["x"])
    return xr.DataArray(np.bincount(index.ravel()) * field.sizes["channel"], dims="ring", name="ring_size")


def _centred(field: xr.DataArray) -> xr.DataArray:
    return field - field.mean("sample" if field.sizes["sample"] > 1 else ("y", "x"), skipna=False)


def mean_variance(field: xr.DataArray) -> xr.DataArray:
    """Variance across samples averaged over the elements of a field (sample, ..., channel, y, x); n - 1 as in
    `ring_variance`.
    """
    square = (_centred(field.astype(np.float64)) ** 2).mean(STATE, skipna=False).sum("sample", skipna=False)
    return (square / max(field.sizes["sample"] - 1, 1)).reset_coords(drop=True)


def ring_variance(field: xr.DataArray) -> xr.DataArray:
    """Variance across samples of each DCT mode, pooled over channels and rings: (..., sample, channel, y, x) ->
    (..., ring).

    The mean over samples is taken out mode by mode (n - 1 in the denominator; with a single sample the second
    moment about the mode's mean over channels is all there is). Rings with few coefficients are shrunk, with the
    weight of four coefficients, to a straight line in log-log through all rings, and nothing is smaller than 1e-4
    of the mean over modes.
    """
    return _pooled(ring_energy(_centred(field)).sum("sample", skipna=False), field)


def clean_variance(run: xr.DataTree) -> xr.DataArray:
    """`ring_variance` of the run's clean states, (step, ring), loaded; every state is read once, and held by no one.

    The energy of the mean over samples is taken from the sum of the states' energies, which are transformed only where
    the run did not record them. Where that leaves so little of some ring (1e-4) that rounding would show, as of samples
    that begin alike, the states are read again and their differences from the mean transformed. Raises RunError
    where the clean states were not recorded.
    """
    states = need(run, "trajectory/latent", "norms,latents")
    samples = states.sizes["sample"]
    if samples == 1:
        return plain(ring_variance(states).compute())
    energies = recorded_energy(run, "trajectory/latent").sum("sample", skipna=False)
    energies, mean = dask.compute(energies, states.sum("sample", skipna=False, dtype=np.float64) / samples)
    left = energies - plain(ring_energy(mean)) * samples
    if not (left > LEAST_LEFT * energies).all():
        left = plain(ring_energy(states - mean.astype(states.dtype)).sum("sample", skipna=False).compute())
    return _pooled(left, states)


def _pooled(total: xr.DataArray, field: xr.DataArray) -> xr.DataArray:
    """Variance per ring from the squares about the mean, summed over samples: (..., ring)."""
    freedom, size = max(field.sizes["sample"] - 1, 1), ring_size(field)
    return xr.apply_ufunc(
        _regularise, total / (size * freedom), size, input_core_dims=[["ring"], ["ring"]], output_core_dims=[["ring"]],
        dask="parallelized", output_dtypes=[np.float64], kwargs={"freedom": freedom},
        dask_gufunc_kwargs={"allow_rechunk": True},
    )  # fmt: skip


def _regularise(raw: np.ndarray, size: np.ndarray, freedom: int) -> np.ndarray:
    floor = np.maximum(FLOOR * (raw * size).sum(-1, keepdims=True) / size.sum(), np.finfo(float).tiny)
    logs = np.log(np.maximum(raw, floor))
    radius = np.log1p(np.arange(raw.shape[-1]))
    weight = size * freedom
    centre = (weight * radius).sum() / weight.sum()
    slope = (weight * (radius - centre) * logs).sum(-1, keepdims=True) / (weight * (radius - centre) ** 2).sum()
    line = (weight * logs).sum(-1, keepdims=True) / weight.sum() + slope * (radius - centre)
    prior = PRIOR_COEFFICIENTS
    return np.maximum(np.exp((weight * logs + prior * line) / (weight + prior)), floor)


# --- the run's own schedule and Gaussian closed forms ---


def level_variance(alpha, sigma, lam):
    """v_t = alpha^2 lam + sigma^2: the variance of a mode of data variance lam at a noise level (labelled arrays
    broadcast).
    """
    return alpha**2 * lam + sigma**2


def step_gain(run: xr.DataTree, lam: xr.DataArray) -> xr.DataArray:
    """Gain of each step for Gaussian data of variance lam, (step, *lam.dims); docs/science.md, "Gains".

    p + q dD/dx with p and q the step's own `state_factor` and `prediction_factor`: the exact gain of the discrete
    step's mean, whatever the sampler. NaN where the sampler's step is not of the form x' = p x + q D.
    """
    return of_steps(run, "state_factor") + injection_factor(run) * x0_sensitivity(run, lam)


def x0_sensitivity(run: xr.DataTree, lam: xr.DataArray) -> xr.DataArray:
    """dD/dx = alpha lam / v where step i evaluates the network, for Gaussian data: (step, *lam.dims)."""
    a, s, _, _ = levels(run)
    return a * lam / level_variance(a, s, lam)


def injection_factor(run: xr.DataTree) -> xr.DataArray:
    """What a change of the x0-prediction adds to the next state (mean part), over `step`: the step's own q."""
    return of_steps(run, "prediction_factor")


def data_variance(run: xr.DataTree) -> xr.DataArray:
    """lam per ring: the variance of the clean final states, (ring,)."""
    return ring_variance(get(run, "trajectory/latent").isel(step=-1, drop=True)).compute()


def per_mode(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Values per ring [..., ring] spread over the modes: [..., height, width]."""
    return np.asarray(values)[..., rings(height, width)]
