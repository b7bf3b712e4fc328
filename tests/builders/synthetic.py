"""Runs made in memory: an exact Gaussian system, sampled in numpy, laid out as the store's schema says.

The states live on a small grid with independent DCT modes whose variance falls with frequency, so that every closed
form of `tests.ground_truth.gaussian` applies mode by mode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.fft
import xarray as xr

from tests.builders import stored
from tests.ground_truth import gaussian

SHAPE = (2, 8, 8)
STATE = ("channel", "y", "x")


def spectrum(shape: Sequence[int] = SHAPE, power: float = 1.5) -> np.ndarray:
    """Variances lam of the modes, [channel, y, x]: 4 / (1 + ring)^power, constant within rounded radii."""
    _, height, width = shape
    radius = np.rint(np.hypot(np.arange(height)[:, None], np.arange(width)[None, :]))
    return np.broadcast_to(4.0 / (1 + radius) ** power, tuple(shape)).copy()


def true_lam(power: float = 1.5) -> xr.DataArray:
    """The variances of `spectrum` per radial ring, (ring,)."""
    radius = np.rint(np.hypot(np.arange(SHAPE[1])[:, None], np.arange(SHAPE[2])[None, :])).astype(int)
    values = [spectrum(power=power)[0][radius == ring][0] for ring in range(radius.max() + 1)]
    return xr.DataArray(values, dims="ring", coords={"ring": np.arange(len(values))})


def true_level_variance(latent: xr.DataArray) -> xr.DataArray:
    """v_t per ring of the clean states of a run, or of its final state: (step, ring) or (ring,)."""
    lam = true_lam()
    if "step" not in latent.dims:
        return lam
    return latent["alpha_after"] ** 2 * lam + latent["sigma_after"] ** 2


def to_field(modes: np.ndarray) -> np.ndarray:
    return scipy.fft.idctn(modes, type=2, norm="ortho", axes=(-2, -1))


def norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).sum((-3, -2, -1)))


def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    size = norm(one) * norm(two)
    return np.where(size > 0, (one * two).sum((-3, -2, -1)) / np.where(size > 0, size, 1), np.nan)


def gaussian_run(
    masks: Mapping[str, Mapping] | None = None,
    *,
    sampler: str = "ddpm",
    steps: int = 12,
    samples: int = 6,
    shape: Sequence[int] = SHAPE,
    seed: int = 0,
    decomposition: bool = True,
    null: bool = True,
    floor: bool = True,
    denoiser: gaussian.Denoise | None = None,
    dtype: type = np.float64,
    power: float = 1.5,
    clean_x0: bool = False,
) -> xr.DataTree:
    """A run of an exact system. `masks`: arm -> options of `affine_mask` (scale, shift) and of `paths` (window,
    masked_fraction).

    Shifts are given per mode. `denoiser` replaces the exact Gaussian one (it acts on DCT modes). Arms are clean,
    optionally full, and `masks`.
    """
    masks = {"R4S32": {"scale": 0.97, "shift": 0.05}} if masks is None else masks
    rng = np.random.default_rng(seed)
    schedule, lam = gaussian.SCHEDULES[sampler](steps), spectrum(shape, power)
    clean = gaussian.gaussian_denoiser(lam) if denoiser is None else denoiser
    start = rng.standard_normal((samples, *shape))
    start = (
        np.sqrt(schedule.alpha[0] ** 2 * lam + schedule.sigma[0] ** 2) * start
    )  # the exact marginal of the first level
    noise = rng.standard_normal((steps, samples, *shape))
    arms = {"clean": {}, **({"full": {"shift": 1e-6}} if floor else {}), **masks}
    results = {}
    for arm, options in arms.items():
        mask = {name: options[name] for name in ("scale", "shift") if name in options}
        rest = {name: value for name, value in options.items() if name not in mask}
        results[arm] = gaussian.paths(schedule, clean, gaussian.affine_mask(clean, **mask), start, noise, **rest)
    return _tree(results, schedule, start, clean, sampler, decomposition, null, dtype, clean_x0)


def _tree(results, schedule, start, clean, sampler, decomposition, null, dtype, clean_x0) -> xr.DataTree:
    arms, (first, *_) = list(results), results.values()
    steps, samples = first.clean.shape[:2]
    coords = {
        "step": np.arange(steps),
        "timestep": ("step", schedule.timestep.astype(float)),
        "alpha": ("step", schedule.alpha),
        "sigma": ("step", schedule.sigma),
        "log_snr": ("step", 2 * np.log(np.maximum(schedule.alpha, 1e-12) / schedule.sigma)),
        "alpha_after": ("step", schedule.alpha_after),
        "sigma_after": ("step", schedule.sigma_after),
        **stored.step_factors(schedule),
    }
    common = {"arm": arms, "sample": np.arange(samples), "seed": ("sample", np.arange(samples))}
    common |= stored.arms(arms, steps)
    per_step = ("arm", "sample", "step")

    def stack(pick):  # [step, sample, ...] of each arm -> [arm, sample, step, ...]
        return np.stack([np.moveaxis(pick(p), 0, 1) for p in results.values()]).astype(dtype)

    delta = stack(lambda p: p.delta)
    tiny = np.finfo(float).tiny
    metrics = {
        "delta_l2": stack(lambda p: norm(p.delta)),
        "delta_rel": stack(lambda p: norm(p.delta) / norm(p.clean)),
        "x0_l2": stack(lambda p: norm(p.x0_masked - p.x0_clean)),
    }
    if decomposition:
        before = stack(lambda p: norm(np.concatenate([np.zeros_like(p.delta[:1]), p.delta[:-1]])))
        metrics |= {
            "injected_l2": stack(lambda p: norm(p.injected)),
            "injected_x0_l2": stack(lambda p: norm(p.x0_injected)),
            "propagated_l2": stack(lambda p: norm(p.propagated)),
            "interaction_l2": stack(lambda p: norm(p.interaction)),
            "injected_propagated_cosine": stack(lambda p: cosine(p.injected, p.propagated)),
            "gain": np.where(before > 0, stack(lambda p: norm(p.propagated)) / np.maximum(before, tiny), np.nan),
            "closure": stack(
                lambda p: norm(p.delta - p.injected - p.propagated - p.interaction) / np.maximum(norm(p.delta), tiny)
            ),
        }
    trajectory = {
        "latent": (("sample", "step", *STATE), to_field(np.moveaxis(first.clean, 0, 1)).astype(dtype)),
        "delta": ((*per_step, *STATE), to_field(delta)),
        "noise": (("sample", *STATE), to_field(start).astype(dtype)),
    }
    if clean_x0:
        trajectory["x0"] = (("sample", "step", *STATE), to_field(np.moveaxis(first.x0_clean, 0, 1)).astype(dtype))
    tree = {
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones((len(arms), samples), np.int8))}, coords=common),
        "metrics": xr.Dataset({name: (per_step, values) for name, values in metrics.items()}, coords=common | coords),
        "trajectory": xr.Dataset(trajectory, coords=common | coords),
    }
    if decomposition:
        extra = {"injected": ((*per_step, *STATE), to_field(stack(lambda p: p.injected)))}
        if null:
            terms = np.stack([_null_terms(p, schedule, clean) for p in results.values()])  # [arm, step, sample, ...]
            extra["null_sum"] = (("arm", "sample", *STATE), to_field(terms.sum(1)).astype(dtype))
            tree["metrics"]["null_l2"] = (per_step, np.swapaxes(norm(terms), 1, 2).astype(dtype))
        tree["decomposition"] = xr.Dataset(extra, coords=common | coords)
    tree = xr.DataTree.from_dict(tree)
    config = {
        "model": "gaussian",
        "sampler": sampler,
        "steps": steps,
        "guidance": 1.0,
        "prediction": "epsilon",
        "arms": arms,
    }
    tree.attrs = {"schema": "denoise-trace", "config": json.dumps(config), **stored.facts(sampler)}
    return tree


def _null_terms(p: gaussian.Paths, schedule: gaussian.Schedule, clean: gaussian.Denoise) -> np.ndarray:
    """d_k = D_{k+1}(x' + injected_k) - D_{k+1}(x'); the last step's state is the prediction itself."""
    terms = []
    for i in range(schedule.steps):
        if i + 1 == schedule.steps:
            terms.append(p.injected[i])
            continue
        level = schedule.alpha[i + 1], schedule.sigma[i + 1]
        terms.append(clean(p.clean[i] + p.injected[i], *level) - clean(p.clean[i], *level))
    return np.stack(terms)
