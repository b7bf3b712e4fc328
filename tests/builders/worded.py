"""A run in memory with maps of words: drawn at random, or given."""

from __future__ import annotations

import numpy as np
import xarray as xr

from tests.builders.viewed import GRID, viewed

PROMPTS = ("a fox", "red moon", "cat", "red fox", "", "moon")
TEXTS = np.array([[*prompt.split(), "[end]", *[""] * (2 - len(prompt.split()))] for prompt in PROMPTS])
STEPS = (3, 7, 11)


def worded(maps: np.ndarray | None = None, **options) -> xr.DataTree:
    """The run of `viewed` with these prompts; maps [arm, sample, step, word, y, x], NaN beyond a sample's entries."""
    run = viewed(prompts=PROMPTS, frames=STEPS, **options)
    arms = run["metrics"].sizes["arm"]
    if maps is None:
        maps = np.random.default_rng(5).gamma(2.0, size=(arms, len(PROMPTS), len(STEPS), 3, *GRID)) / 50
    maps = np.where((TEXTS != "")[None, :, None, :, None, None], maps, np.nan)
    attention = run["attention"].to_dataset()
    coords = {"frame_step": list(STEPS), "word": np.arange(3), "word_text": (("sample", "word"), TEXTS)}
    dims = ("arm", "sample", "frame_step", "word", "map_y", "map_x")
    run["attention"] = xr.DataTree(attention.assign_coords(coords).assign(word_map=(dims, maps.astype(np.float32))))
    return run
