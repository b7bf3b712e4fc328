"""Runs that hold scores alone, built in memory, for the gate: as `trace score` and the tracer leave them."""

import json

import numpy as np
import xarray as xr

from tests.builders.stored import described

DISTANCE = {"kind": "to clean", "higher_is_better": False}
SCORE = {"kind": "score", "higher_is_better": True}
SET = {"kind": "set", "higher_is_better": False, "distance": "mmd"}


def gated_run(groups, arms=("clean", "R4S0", "full"), *, samples=24, errors=None, status=None, seeds=None):
    """groups: metric -> (attributes, values [arm, sample] or [arm, sample, feature], unrelated [sample] or None).

    errors: final error [arm, sample]; the floor is run on the first four samples alone, as by default.
    """
    flags = np.ones((len(arms), samples), np.int8)
    if "full" in arms:
        flags[list(arms).index("full"), 4:] = 3
    flags = flags if status is None else np.asarray(status, np.int8)
    errors = np.full(flags.shape, 1.0) if errors is None else np.asarray(errors, float)
    seeds = np.arange(samples) if seeds is None else seeds
    coords = {"arm": list(arms), "sample": np.arange(samples), "seed": ("sample", seeds)}
    over = ("arm", "sample")
    tree = {
        "/": xr.Dataset({"status": (over, flags)}, coords=coords),
        "/metrics": xr.Dataset({"delta_l2": ((*over, "step"), np.stack([errors, errors], -1))}, coords=coords),
    }
    for position, (name, (attributes, values, unrelated)) in enumerate(groups.items()):
        values = np.asarray(values, dtype=float)
        variable, dims = ("score", ()) if values.ndim == 2 else ("features", ("feature",))
        variables = {variable: ((*over, *dims), np.where(_broadcast(flags, values) == 1, values, np.nan))}
        if unrelated is not None:
            variables["unrelated_score"] = ("sample", unrelated)
        about = {"name": name, "title": f"the {name}", "position": position}
        tree[f"/scores/{name}"] = xr.Dataset(variables, coords=coords, attrs=about | attributes)
    made = described(xr.DataTree.from_dict(tree, name="run"), 2)
    settings = {"model": "dit", "sampler": "ddpm", "steps": 2, "guidance": 1.0}
    made.attrs = {"config": json.dumps(settings)}
    return made


def _broadcast(flags, values):
    return flags.reshape(*flags.shape, *[1] * (values.ndim - 2))
