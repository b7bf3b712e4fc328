"""What a store says of arms and samplers, for runs that are built in memory: as `tracer.store` writes it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from interventions import parse
from interventions.arms import arm_coordinates
from tests.ground_truth import gaussian


def described(tree: xr.DataTree, steps: int) -> xr.DataTree:
    """The tree with the coordinates of its arms in every group that has arms."""

    def describe(data: xr.Dataset) -> xr.Dataset:
        return data.assign_coords(arms(data["arm"].values, steps)) if "arm" in data.dims else data

    return tree.map_over_datasets(describe)


def arms(names: Iterable[str], steps: int) -> dict[str, tuple[str, list]]:
    """Coordinate -> (dimension, values) of the arms of these names in a run of so many steps."""
    rows = [arm_coordinates(parse(str(name)), steps) for name in names]
    return {name: ("arm", [row[name] for row in rows]) for name in rows[0]}


def step_factors(schedule: gaussian.Schedule) -> dict[str, tuple[str, np.ndarray]]:
    """`state_factor` p and `prediction_factor` q of the steps, from the closed forms of Gaussian data.

    Data without variance are predicted the same from every state, so that what is left of the gain is p.
    """
    state = gaussian.step_gain(schedule, np.zeros(1))[:, 0]
    return {"state_factor": ("step", state), "prediction_factor": ("step", gaussian.injection_factor(schedule))}


def facts(sampler: str) -> dict[str, str | bool]:
    """Attributes of the root that say what the sampler is."""
    return {"sampler": sampler, "sampler_stochastic": sampler == "ddpm"}
