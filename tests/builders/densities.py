"""Sweeps over densities and families as they are stored, with answers drawn at random, for figures."""

import json

import numpy as np
import xarray as xr

FAMILIES = ("small-world", "preferential", "hub-spoke", "local", "random")
DENSITIES = (0.05, 0.13, 0.25, 0.5, 0.75)


def sweep(task: str, model: str, *, hurt: float, samples: int = 60, seed: int = 0) -> xr.Dataset:
    """One sweep: every family at every density; `hurt` is what the worst mask costs, as a share of right answers."""
    rng = np.random.default_rng(seed)
    grid = [("clean", 1.0), *((family, density) for family in FAMILIES for density in DENSITIES)]
    cost = np.array([0.0 if family == "clean" else hurt * (1 - density) ** 2 for family, density in grid])
    cost *= np.array([0 if family == "clean" else 0.5 + FAMILIES.index(family) / 8 for family, _ in grid])
    coords = {
        "spec": ("cell", [f"{family} {density:g}" if family != "clean" else "clean" for family, density in grid]),
        "family": ("cell", [family for family, _ in grid]),
        "mask_seed": ("cell", [0] * len(grid)),
        **{name: ("cell", [density for _, density in grid]) for name in ("density", "density_sequence")},
        "target_density": ("cell", [density for _, density in grid]),
    }
    shift = (2 * cost[:, None]) ** 2 * rng.uniform(0.8, 1.2, samples)
    data = {"feature_fvu": (("cell", "sample"), shift), "mmd2": ("cell", shift.mean(1))}
    if task == "denoise":
        levels = np.array([0.2, 0.6, 1.5])
        over_time = shift[:, None] * levels[:, None]
        data = {name: (("cell", "timestep", "sample"), over_time) for name in ("feature_fvu", "x0_fvu")}
        coords["timestep"] = [50, 500, 950]
    elif task == "retrieve":
        for way, side in (("image", "sample"), ("text", "text")):
            data[f"{way}_rank"] = ("cell", side), np.where(_right(rng, cost, samples, 0.5), 1, 9)
            coords[f"{way}_group"] = side, np.arange(samples)
        galleries = np.array([0.8, 0.7, 0.6]) * (1 - cost[:, None] / 4)
        data["gallery_recall"] = ("cell", "gallery", "direction"), np.stack([galleries, galleries], axis=-1)
        coords |= {"gallery": [16, 32, 64], "direction": ["image-to-text", "text-to-image"]}
    else:
        data["correct"] = ("cell", "sample"), _right(rng, cost, samples, 0.8).astype(np.int8)
    if task == "classify":
        data |= {name: (("cell", "sample"), np.ones((len(grid), samples), np.int8)) for name in ("correct5", "agree")}
    if task == "generate":
        data["mmd2_real"] = "cell", 0.5 + cost
    config = {"task": task, "model": model, "source": "drawn at random", "images": samples, "data": "none"}
    return xr.Dataset(data, coords=coords, attrs={"config": json.dumps(config)})


def _right(rng: np.random.Generator, cost: np.ndarray, samples: int, clean: float) -> np.ndarray:
    """Bool [cell, sample]: right answers, the same pictures being hard in every cell."""
    return rng.uniform(size=samples) < clean * (1 - cost[:, None])


def every_task() -> list[xr.Dataset]:
    """What Figure 1 shows: retrieval, two classifiers and generation."""
    return [
        sweep("retrieve", "clip", hurt=0.1), sweep("classify", "vit-cls", hurt=0.05, seed=1),
        sweep("classify", "vit", hurt=0.7, seed=2), sweep("generate", "dit", hurt=1.0, samples=24, seed=3),
    ]  # fmt: skip


def blocks() -> xr.Dataset:
    """A depth measurement of a classifier and a denoiser under two masks."""
    rng = np.random.default_rng(4)
    dims, size = ("spec", "pass", "block", "sample"), (2, 4, 6, 12)
    growth = np.linspace(0.1, 1, 6)[:, None] * np.array([0.3, 0.6, 0.2, 0.05])[:, None, None]
    data = {name: (dims, growth * rng.uniform(0.8, 1.2, size)) for name in ("fvu", "injected", "propagated")}
    data["interaction"] = dims, np.zeros(size)
    data["gain"] = dims, rng.uniform(0.9, 1.2, size)
    coords = {
        "spec": ["R4S30", "R0S63"], "model": ("pass", ["vit", "clip", "dit", "dit"]),
        "timestep": ("pass", [-1, -1, 50, 950]), "block": np.arange(6),
    }  # fmt: skip
    return xr.Dataset(data, coords=coords, attrs={"schema": "denoise-trace-depth"})
