"""Runs with known errors and known costs, written by hand in the store's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from tests.builders import stored

STATE = ("channel", "y", "x")


def costed(
    arms: Mapping[str, Mapping],
    *,
    samples: int = 16,
    steps: int = 10,
    fewer: tuple[str, ...] = (),
    sampler: str = "ddim",
    paths: int = 1,
    finals: np.ndarray | None = None,
    **config,
) -> xr.DataTree:
    """A run whose arms have these errors and costs.

    arms: name -> error (one, or [sample]), cost (its share of evaluations, one or [step]), and where known time (ratio
    of seconds, one or [step]), arithmetic (share), systematic (|N*| relative). fewer: the arms that are the control.
    finals: clean final states [sample]; 2 by default, one element each.
    """
    arms = {"clean": {"error": 0.0, "cost": 1.0, "time": 1.0, "arithmetic": 1.0, "systematic": 0.0}, **arms}
    names, count = list(arms), len(arms)
    size = np.full(samples, 2.0) if finals is None else np.asarray(finals, float)
    error = np.stack([np.broadcast_to(np.asarray(arm["error"], float), samples) for arm in arms.values()])
    relative = np.repeat(error[..., None], steps, -1)
    coords = {"arm": names, **stored.arms(["clean"] + ["R4S32"] * (count - 1), steps), "sample": np.arange(samples)}
    coords["arm_mask"] = "arm", names
    coords["arm_family"] = "arm", ["clean", *("fewer-steps" if name in fewer else "cache" for name in names[1:])]
    coords |= {"seed": ("sample", np.arange(samples) // paths), "path": ("sample", np.arange(samples) % paths)}
    per_step = coords | {"step": np.arange(steps)}

    def known(what: str, shape: tuple[int, ...]) -> np.ndarray:
        values = [np.broadcast_to(np.asarray(arm.get(what, np.nan), float), shape) for arm in arms.values()]
        return np.stack(values)

    seconds = 0.25 * known("time", (steps,))
    evaluations = known("cost", (steps,))
    spread = np.ones((1, samples, 1))
    cost = {
        "evaluations": (("arm", "step"), evaluations),
        "seconds": (("arm", "sample", "step"), seconds[:, None] * spread),
        "arithmetic": (("arm", "sample", "step"), 1e6 * known("arithmetic", (steps,))[:, None] * spread),
    }
    own = known("systematic", (samples,)) * size
    tree = {
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones((count, samples), np.int8))}, coords=coords),
        "metrics": xr.Dataset(
            {
                "delta_rel": (("arm", "sample", "step"), relative),
                "delta_l2": (("arm", "sample", "step"), relative * size[:, None]),
            },
            coords=per_step,
        ),
        "trajectory": xr.Dataset(
            {"latent": (("sample", "step", *STATE), np.tile(size[:, None, None, None, None], (1, steps, 1, 1, 1)))},
            coords={key: value for key, value in per_step.items() if not key.startswith("arm")},
        ),
        "cost": xr.Dataset(cost, coords=per_step),
    }
    if np.isfinite(own[1:]).any():
        tree["decomposition"] = xr.Dataset({"own_sum": (("arm", "sample", *STATE), own[..., None, None, None])}, coords)
    made = xr.DataTree.from_dict(tree)
    settings = {"model": "by-hand", "sampler": sampler, "steps": steps, "guidance": 1.0, "arms": names} | config
    made.attrs = {"schema": "denoise-trace", "config": json.dumps(settings), **stored.facts(sampler)}
    return made
