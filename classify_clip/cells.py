"""The cells of a sweep: which spec under which mask seed, in a fixed order, checked against the model's token layout.

Densities are turned into specs by `interventions.solve_density`; density is reported for image-image pairs and for the
whole sequence, prefix included. No model is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from interventions import Graph, Intervention, TokenLayout, density, parse, solve_density
from interventions.families import Full, density_families


@dataclass(frozen=True)
class Cell:
    """One experimental condition: an intervention under one seed of its graph."""

    intervention: Intervention
    family: str
    """Of `interventions`, or the ablation that was asked for."""
    target: float
    """The density that was asked for; NaN when a spec was named."""
    mask_seed: int
    density: float
    """Of image-image pairs, self included; NaN where there is no fixed mask."""
    density_sequence: float
    """Of all pairs of the sequence, prefix tokens included."""

    @property
    def spec(self) -> str:
        """The canonical spec."""
        return str(self.intervention)


def cells(
    layout: TokenLayout,
    *,
    masks: str | Sequence[str] = (),
    densities: Sequence[float] = (),
    families: str | Sequence[str] = (),
    mask_seeds: Sequence[int] = (0,),
    layers: int | None = None,
) -> list[Cell]:
    """`clean` first, then the named specs, then every family at every density; a graph without chance has one seed.

    Families without densities (or the reverse) get the defaults. Raises SpecError for what the layout rules out.
    """
    masks, families = listed(masks), listed(families)
    if families and not densities:
        densities = (0.25, 0.5)
    if densities and not families:
        families = density_families(shipped=True)
    conditions: list[tuple[Intervention, str | None, float]] = [(parse("clean"), None, float("nan"))]
    conditions += [(parse(mask), None, float("nan")) for mask in masks if mask != "clean"]
    conditions += [(solve_density(name, share, layout), name, share) for share in densities for name in families]
    grid: dict[tuple[str, int], Cell] = {}
    for intervention, name, target in conditions:
        intervention.check(layout, layers=layers)
        for seed in mask_seeds if intervention.drawn else mask_seeds[:1]:
            share, whole = densities_of(intervention, layout, seed)
            cell = Cell(intervention, name or intervention.family, target, seed, share, whole)
            grid.setdefault((cell.spec, seed), cell)
    return list(grid.values())


def listed(texts: str | Sequence[str]) -> Sequence[str]:
    """Several texts, or the one that was given."""
    return (texts,) if isinstance(texts, str) else texts


def densities_of(intervention: Intervention, layout: TokenLayout, seed: int) -> tuple[float, float]:
    """Density of image-image pairs and of all pairs; NaN where there is no fixed mask."""
    if intervention.role == "clean":
        return 1.0, 1.0
    if not isinstance(intervention, Graph | Full):  # which keys are removed is found while the model runs
        return float("nan"), float("nan")
    mask = intervention.mask(layout, seed)
    return (density(mask, layout) if layout.image_tokens else float("nan")), density(mask)


def coordinates(grid: Sequence[Cell]) -> xr.Dataset:
    """The coordinates of the `cell` dimension."""
    columns = {
        "spec": (np.array([cell.spec for cell in grid]), "spec string of the intervention"),
        "family": (np.array([cell.family for cell in grid]), "graph family; local and random are the ablations"),
        "target_density": (np.array([cell.target for cell in grid]), "density asked for; NaN: a spec was named"),
        "density": (np.array([cell.density for cell in grid]), "density of image-image pairs, self included"),
        "density_sequence": (
            np.array([cell.density_sequence for cell in grid]),
            "density of all pairs, prefix included",
        ),
        "mask_seed": (np.array([cell.mask_seed for cell in grid]), "seed of the random graph"),
    }
    data = {name: ("cell", values, {"long_name": text, "units": "1"}) for name, (values, text) in columns.items()}
    return xr.Dataset(coords=data)
