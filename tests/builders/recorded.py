"""Runs written by hand in the store's layout, with any final error, null and floor one likes."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from tests.builders import stored
from tests.ground_truth import gaussian

STATE = ("channel", "y", "x")


def recorded(
    log_a: dict[str, np.ndarray],
    *,
    steps: int = 50,
    floor: float | None = None,
    seeds=None,
    status: np.ndarray | None = None,
    kept_null: bool = True,
    mask: dict[str, float] | None = None,
    **config,
) -> xr.DataTree:
    """A DDPM run whose arms have these log A per sample: |null| is 2 in the final state, |delta| 2 exp(log A).

    null_l2 sums to 4 (coherence one half) and injected_l2 to 5. `mask` adds static masks of these densities over 20
    image tokens and one open prefix token.
    """
    samples = len(next(iter(log_a.values())))
    arms = ["clean", *(["full"] if floor is not None else []), *log_a]
    actual = {"clean": np.zeros(samples), "full": np.full(samples, floor or 0.0)}
    actual |= {arm: 2 * np.exp(np.asarray(values, dtype=float)) for arm, values in log_a.items()}
    direction = np.full((1, 4, 4), 0.25)
    delta = np.zeros((len(arms), samples, steps, 1, 4, 4), np.float64)
    for index, arm in enumerate(arms):
        delta[index, :, -1] = actual[arm][:, None, None, None] * direction
    sampler = config.get("sampler", "ddpm")
    coords = {"arm": arms, **stored.arms(arms, steps), "sample": np.arange(samples)}
    coords["seed"] = ("sample", np.arange(samples) if seeds is None else np.asarray(seeds))
    level = np.linspace(0.1, 0.99, steps + 1)
    levels = {"alpha": level[:-1], "sigma": np.sqrt(1 - level[:-1] ** 2)}
    levels |= {"alpha_after": level[1:], "sigma_after": np.sqrt(1 - level[1:] ** 2)}
    schedule = gaussian.Schedule(sampler, np.arange(steps), *levels.values())
    per_step = coords | {"step": np.arange(steps)} | {name: ("step", values) for name, values in levels.items()}
    per_step |= stored.step_factors(schedule)
    one = np.full((len(arms), samples, steps), 1 / steps)
    sizes = np.stack([np.broadcast_to(actual[arm], samples) for arm in arms])[..., None] * np.ones(steps)
    metrics = {"delta_l2": sizes, "injected_l2": 5 * one, **({"null_l2": 4 * one} if kept_null else {})}
    latent = np.random.default_rng(0).normal(size=(samples, steps, 1, 4, 4))
    trajectory = {"latent": (("sample", "step", *STATE), latent), "delta": (("arm", "sample", "step", *STATE), delta)}
    tree = {
        "/": xr.Dataset(
            {"status": (("arm", "sample"), np.ones((len(arms), samples), np.int8) if status is None else status)},
            coords=coords,
        ),
        "metrics": xr.Dataset({name: (("arm", "sample", "step"), v) for name, v in metrics.items()}, coords=per_step),
        "trajectory": xr.Dataset(trajectory, coords=per_step),
    }
    if kept_null:
        null = np.broadcast_to(2 * direction, (len(arms), samples, 1, 4, 4)).copy()
        tree["decomposition"] = xr.Dataset({"null_sum": (("arm", "sample", *STATE), null)}, coords=coords)
    if mask:
        tree["interventions"] = _masks(arms, mask)
    tree = xr.DataTree.from_dict(tree)
    settings = {"model": "by-hand", "sampler": "ddpm", "steps": steps, "guidance": 1.0, "arms": arms} | config
    tree.attrs = {"schema": "denoise-trace", "config": json.dumps(settings), **stored.facts(sampler)}
    return tree


def _masks(arms: list[str], densities: dict[str, float]) -> xr.Dataset:
    masks = np.ones((len(arms), 21, 21), bool)
    for arm, density in densities.items():
        masks[arms.index(arm), 1:, 1:] = np.arange(20) < round(20 * density)
    return xr.Dataset({"mask": (("arm", "query", "key"), masks)}, coords={"arm": arms})
