"""Runs that hold pictures only, and held-out drawings to fill them with."""

import json

import numpy as np
import xarray as xr

from classify_clip.data import held_out
from classify_clip.scores.judge import class_names


def picture_run(images, *, labels=None, model="embedded dit", prompts=None, tags=None, replays=None):
    """A run that holds pictures only: uint8 [sample, y, x, 3] by arm name, `clean` among them.

    `replays`: the same of the arms that were replayed; the others' are black, as the tracer leaves them.
    """
    arms = list(images)
    stacked = np.stack([images[arm] for arm in arms])
    coords = {"arm": arms, "sample": np.arange(stacked.shape[1])}
    if labels is not None:
        coords |= {"class_label": ("sample", labels)}
        coords |= {"class_name": ("sample", [class_names()[label] for label in labels])}
    if prompts is not None:
        coords |= {"prompt": ("sample", prompts)}
    if tags is not None:
        coords |= {"tag": ("sample", tags)}
    dims, pictures = ("arm", "sample", "image_y", "image_x", "rgb"), {"image": stacked}
    if replays is not None:
        pictures["replay"] = np.stack([replays.get(arm, np.zeros_like(stacked[0])) for arm in arms])
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset({"status": (("arm", "sample"), np.ones(stacked.shape[:2], np.int8))}, coords=coords),
            "images": xr.Dataset({name: (dims, values) for name, values in pictures.items()}, coords=coords),
        }
    )
    config = {"model": "dit", "sampler": "ddpm", "steps": 2, "guidance": 1.0, "checkpoint": {"id": model}}
    tree.attrs = {"config": json.dumps(config)}
    return tree


def drawings(count=8):
    """Held-out drawings with their classes, evenly spread: uint8 [n, 32, 32, 3], int64 [n]."""
    data = held_out()
    rows = np.linspace(0, len(data.label) - 1, count).astype(int)
    return data.pixels[rows], data.label[rows].astype(np.int64)
