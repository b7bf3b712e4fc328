"""A run in memory with everything that the viewer draws: an exact Gaussian system, frames, results, attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from tests.builders import synthetic

GRID = (3, 4)
"""Rows and columns of image tokens; a prefix token stands before them, two tokens of text behind."""
TOKENS, LAYERS, HEADS = 1 + 12 + 2, 2, 3
FRAME = (5, 7)


def viewed(
    *, steps: int = 12, samples: int = 6, frames: Sequence[int] = (3, 7, 11), prompts: Sequence[str] = (), **options
) -> xr.DataTree:
    """The run; `options` are those of `synthetic.gaussian_run`. Pictures and attention are drawn at random."""
    run = synthetic.gaussian_run(steps=steps, samples=samples, **options)
    if prompts:
        run = run.map_over_datasets(lambda data: data.assign_coords(prompt=("sample", list(prompts))))
    arms, rng = run["metrics"].sizes["arm"], np.random.default_rng(1)
    coords = {name: run["metrics"].ds.coords[name] for name in run["metrics"].ds.coords}
    still = {name: value for name, value in coords.items() if "step" not in value.dims}
    pictures = {
        "frame": (("arm", "sample", "frame_step", "frame_y", "frame_x", "rgb"), (arms, samples, len(frames), *FRAME, 3)),
        "image": (("arm", "sample", "image_y", "image_x", "rgb"), (arms, samples, *FRAME, 3)),
    }  # fmt: skip
    drawn = {name: (dims, rng.integers(0, 256, shape, np.uint8)) for name, (dims, shape) in pictures.items()}
    run["images"] = xr.DataTree(xr.Dataset(drawn, coords={**still, "frame_step": np.asarray(frames)}))
    run["attention"] = xr.DataTree(_attention((arms, samples, steps), rng, coords))
    return run


def _attention(lanes: tuple[int, int, int], rng: np.random.Generator, coords: dict) -> xr.Dataset:
    mass = rng.gamma(0.3, size=(*lanes, LAYERS, TOKENS))
    mass /= mass.sum(-1, keepdims=True)
    top = np.argsort(-rng.random((*lanes, LAYERS, HEADS, TOKENS)))[..., :2]
    y, x = (np.concatenate([[-1], side.ravel(), [-1, -1]]) for side in np.indices(GRID))
    token = {
        "token_kind": ("token", np.array([2] + [0] * 12 + [1, 1], np.int8)),
        "token_y": ("token", y), "token_x": ("token", x),
    }  # fmt: skip
    of_layer = ("arm", "sample", "step", "layer")
    return xr.Dataset(
        {
            "mass_layer": ((*of_layer, "token"), mass.astype(np.float32)),
            "sink_token": ((*of_layer, "head", "rank"), top.astype(np.int16)),
            "sink_mass": ((*of_layer, "head", "rank"), rng.random(top.shape, np.float32)),
            "entropy": ((*of_layer, "head"), rng.random(top.shape[:-1], np.float32)),
        },
        coords={**coords, **token},
    )


def without(run: xr.DataTree, *paths: str) -> xr.DataTree:
    """The run without these groups or arrays, such as "images" or "metrics/replay_l2"."""
    groups = {node.path: node.to_dataset(inherit=False) for node in run.subtree}
    for path in paths:
        group, _, name = path.partition("/")
        if name:
            groups[f"/{group}"] = groups[f"/{group}"].drop_vars(name)
        else:
            del groups[f"/{group}"]
    tree = xr.DataTree.from_dict(groups, name=run.name)
    tree.attrs = dict(run.attrs)
    return tree
