"""Runs of cells made by hand: errors of arms in steps and layers, given as vectors, in the layout of a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from tests.builders import stored

SHAPE = (2, 3, 4)
Errors = Callable[[np.ndarray], np.ndarray]
"""From what an arm approximates, bool [step, layer], to its final errors [sample, element]."""


def run_of(
    arms: Sequence[str], errors: Errors, *, steps: int, layers: int, samples: int = 8, seed: int = 0
) -> xr.DataTree:
    """A run of these arms whose final errors a function of what they approximate gives; clean results are random."""
    names, elements = ["clean", *arms], int(np.prod(SHAPE))
    described = stored.arms(names, steps)
    final = np.stack(
        [
            np.zeros((samples, elements)),
            *(errors(covered(text, steps, layers)) for text in described["arm_acts"][1][1:]),
        ]
    )
    clean = np.random.default_rng([seed, 7]).standard_normal((samples, *SHAPE))
    common = {"arm": names, "sample": np.arange(samples), "seed": ("sample", seed + np.arange(samples)), **described}
    coords = common | {
        "step": np.arange(steps),
        "state_factor": ("step", np.zeros(steps)),
        "prediction_factor": ("step", np.ones(steps)),
    }
    states = ("channel", "y", "x")
    x0 = np.broadcast_to(clean[:, None], (samples, steps, *SHAPE))
    delta = np.broadcast_to(np.sqrt((final**2).sum(-1))[..., None], (*final.shape[:2], steps))
    tree = xr.DataTree.from_dict({
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones(final.shape[:2], np.int8))}, coords=common),
        "metrics": xr.Dataset({"delta_l2": (("arm", "sample", "step"), delta)}, coords=coords),
        "trajectory": xr.Dataset(
            {
                "final_delta": (("arm", "sample", *states), final.reshape(*final.shape[:2], *SHAPE)),
                "x0": (("sample", "step", *states), x0),
            },
            coords=coords,
        ),
    })  # fmt: skip
    config = {"model": "linear", "sampler": "ddim", "steps": steps, "guidance": 1.0, "seed": seed, "arms": names}
    tree.attrs = {"config": json.dumps(config), "sampler": "ddim", "sampler_stochastic": False}
    return tree


def covered(text: str, steps: int, layers: int) -> np.ndarray:
    """What the coordinate `arm_acts` of an arm says that it approximates: bool [step, layer]."""
    found = np.zeros((steps, layers), dtype=bool)
    for part in json.loads(text):
        for start, stop in part["windows"]:
            found[start:stop, part["layers"] or slice(None)] = True
    return found


def linear(seed: int, *, steps: int, layers: int, samples: int = 8, scale: Mapping[int, float] = {}) -> Errors:
    """Errors that add: each block has its own vector in every sample, some steps `scale` times as large."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((steps, 1, 1, 1))  # neighbours share a direction
    each = 0.02 * (rng.standard_normal((steps, layers, samples, int(np.prod(SHAPE)))) + common)
    each *= np.array([scale.get(step, 1.0) for step in range(steps)])[:, None, None, None]
    return lambda cover: each[cover].sum(0)


def chained(seed: int, *, steps: int, layers: int, samples: int = 8) -> Errors:
    """A cache in a linear system: each block of a row is as wrong as all changes since the row's last computed step."""
    rng = np.random.default_rng(seed)
    change = 0.02 * rng.standard_normal((steps, layers, samples, int(np.prod(SHAPE))))
    carried = rng.uniform(0.5, 1.5, steps)

    def errors(cover: np.ndarray) -> np.ndarray:
        total, behind = np.zeros(change.shape[2:]), np.zeros(change.shape[1:])
        for step in range(steps):
            behind = np.where(cover[step][:, None, None], behind + change[step], 0.0)
            total = total + carried[step] * behind.sum(0)
        return total

    return errors


def saturating(errors: Errors, most: float) -> Errors:
    """Errors that cannot be longer than `most`."""

    def bounded(cover: np.ndarray) -> np.ndarray:
        found = errors(cover)
        size = np.linalg.norm(found, axis=-1, keepdims=True)
        return found * np.tanh(size / most) * most / size

    return bounded


def interacting(errors: Errors, strength: float) -> Errors:
    """Errors that grow with how many blocks are approximated at all: (1 + strength x share of further blocks)."""
    return lambda cover: errors(cover) * (1 + strength * (cover.sum() - 1) / cover.size)


def singles(
    steps: int, head: str = "R4S32", groups: Sequence[str] = ("",), lengths: Sequence[int] = (1,), first: int = 0
) -> list[str]:
    """The cells of a study."""
    layers = [f"layers={group};" if group else "" for group in groups]
    return [
        f"{head}@{where}steps={start}:{start + length}"
        for where in layers
        for length in lengths
        for start in range(first, steps - length + 1)
    ]
