"""Runs in memory whose attention mass is given: an image on a grid, then text, of which the last may be padding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from tests.builders import stored


def attended(
    mass: np.ndarray, grid: tuple[int, int, int], *, padded: int = 0, seeds: Sequence[int] | None = None, **config: Any
) -> xr.DataTree:
    """A run whose clean arm has this mass [sample, step, layer, token]; tokens beyond the grid's are text.

    padded: how many of the last ones are padding. config: what its configuration says besides.
    """
    samples, steps, _, tokens = mass.shape
    image = int(np.prod(grid))
    cells = np.full((3, tokens), -1)
    cells[:, :image] = np.indices(grid).reshape(3, -1)
    coords: Mapping[str, Any] = {
        "arm": ["clean"], "sample": np.arange(samples), "step": np.arange(steps),
        "seed": ("sample", np.arange(samples) if seeds is None else np.asarray(seeds)),
    }  # fmt: skip
    token = {"token_kind": ("token", (np.arange(tokens) >= image).astype(np.int8))}
    token |= {f"token_{name}": ("token", side) for name, side in zip(("frame", "y", "x"), cells, strict=True)}
    if padded:
        token["token_padding"] = ("sample", "token"), np.tile(np.arange(tokens) >= tokens - padded, (samples, 1))
    norms = {"delta_l2": (("arm", "sample", "step"), np.zeros((1, samples, steps)))}
    values = mass / mass.sum(-1, keepdims=True)
    recorded = {"mass_layer": (("arm", "sample", "step", "layer", "token"), values[None].astype(np.float32))}
    tree = xr.DataTree.from_dict(
        {"metrics": xr.Dataset(norms, coords=coords), "attention": xr.Dataset(recorded, coords={**coords, **token})}
    )
    tree = stored.described(tree, steps)
    tree.attrs |= stored.facts("flow")
    told = {"model": "made", "sampler": "flow", "steps": steps, "guidance": 1.0}
    tree.attrs["config"] = json.dumps(told | config)
    return tree
