"""The families of interventions: one file each, with class, grammar, graph, solver and hints in it.

`FAMILIES` is their registry; `parse`, `solve_density` and the sweeps ask it and know no family by name. A family of
another distribution is one file and one entry point of the group "denoise_trace.families"; it derives from `Graph` (a
mask on the image tokens) and is read, masked, solved and stored like those that ship.
"""

import warnings
from collections.abc import Iterator

from interventions.errors import InputError
from interventions.families.base import Graph, Intervention, OnCalls
from interventions.families.controls import Clean, Full
from interventions.families.function import Function
from interventions.families.heads_off import HeadsOff
from interventions.families.hub_spoke import HubSpoke
from interventions.families.key_removal import KeyRemoval
from interventions.families.patch import Patch
from interventions.families.preferential import Preferential
from interventions.families.small_world import SmallWorld
from interventions.families.top_keys import TopKeys
from interventions.registry import Registry

__all__ = [
    "FAMILIES",
    "Clean",
    "Full",
    "Function",
    "Graph",
    "HeadsOff",
    "HubSpoke",
    "Intervention",
    "KeyRemoval",
    "OnCalls",
    "Patch",
    "Preferential",
    "SmallWorld",
    "TopKeys",
    "density_families",
    "every_family",
]

FAMILIES: Registry[type[Intervention]] = Registry(
    "family",
    {
        "small-world": "interventions.families.small_world:SmallWorld",
        "preferential": "interventions.families.preferential:Preferential",
        "hub-spoke": "interventions.families.hub_spoke:HubSpoke",
        "patch": "interventions.families.patch:Patch",
        "key-removal": "interventions.families.key_removal:KeyRemoval",
        "top-k": "interventions.families.top_keys:TopKeys",
        "heads-off": "interventions.families.heads_off:HeadsOff",
        "function": "interventions.families.function:Function",
        "clean": "interventions.families.controls:Clean",
        "full": "interventions.families.controls:Full",
        "fewer-steps": "interventions.changes.fewer:FewerSteps",
        "other-sampler": "interventions.changes.fewer:OtherSampler",
        "weight-quantisation": "interventions.changes.quantised:Quantised",
        "precision": "interventions.changes.precision:Precision",
        "every-k-cache": "interventions.changes.reuse:EveryK",
        "reuse": "interventions.changes.reuse:Reuse",
        "token-merging": "interventions.changes.merging:TokenMerging",
        "library-cache": "interventions.changes.library_caches:LibraryCache",
        "attention-backend": "interventions.changes.backend:Backend",
    },
    group="denoise_trace.families",
)
"""The families of interventions by name; a distribution adds its own in group denoise_trace.families."""


def every_family(*, shipped: bool = False) -> Iterator[type[Intervention]]:
    """Yield the classes, what ships first; shipped: only these.

    A family of another distribution that cannot be loaded is left out with a warning that names it.
    """
    for name in FAMILIES.built_in if shipped else FAMILIES:
        try:
            family = FAMILIES[name]
        except InputError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
            continue
        yield family


def density_families(*, shipped: bool = False) -> tuple[str, ...]:
    """Return the names that `solve_density` takes: the families first, then their ablations (local, random).

    shipped: leave out what other distributions brought, as a default sweep does: it stays the same on every machine.
    """
    solvers = [family.solvers for family in every_family(shipped=shipped)]
    return tuple(dict.fromkeys([*(own[0] for own in solvers if own), *(name for own in solvers for name in own[1:])]))
