"""What sentences, figures and pages call what was done to a trajectory: a mask, a removal of keys, a cache.

The arms say it (coordinate `arm_noun`); where those of a run differ it is an intervention. Every measure's result has
the noun in `attrs["noun"]`, and whatever presents it asks `wording` for the word that fits its sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr

MASK, ANY = "mask", "intervention"
REMOVALS = ("sink-keys", "random-keys", "bottom-keys")
"""Families of stores that have no `arm_noun` and no masks: they remove keys."""
APART = ("clean", "floor")
"""Roles of arms that nothing is said of."""


@dataclass(frozen=True)
class Wording:
    """A noun in the forms that sentences need; those of a mask are verbs, as it always was.

    acted, acting: of steps, paths and pictures ("masked", "masking"; "changed", "changing"). does: the subject of what
    is added ("masking", "the cache"). errors: its errors. flag: the option that types such an arm.
    """

    noun: str = MASK

    @property
    def plural(self) -> str:
        """Several of it; of "second network" and "patch of the network" the right word is put into the plural."""
        head, of, rest = self.noun.partition(" of ")
        return f"{head}{'es' if head.endswith(('s', 'x', 'ch', 'sh')) else 's'}{of}{rest}"

    @property
    def acted(self) -> str:
        """Of a step, path or picture."""
        return "masked" if self.noun == MASK else "changed"

    @property
    def acting(self) -> str:
        """The gerund."""
        return "masking" if self.noun == MASK else "changing"

    @property
    def does(self) -> str:
        """What adds something to a step."""
        return "masking" if self.noun == MASK else f"the {self.noun}"

    @property
    def errors(self) -> str:
        """The errors that it makes."""
        return "masking errors" if self.noun == MASK else f"errors of the {self.noun}"

    @property
    def flag(self) -> str:
        """How the command line takes it."""
        return "--mask" if self.noun in (MASK, "removal") else "--arm"


def wording(dataset: xr.Dataset) -> Wording:
    """The words for the result of a measure, or for a part of it: by its attribute, else by its arms."""
    return Wording(str(dataset.attrs["noun"]) if "noun" in dataset.attrs else _one(of_arms(dataset)))


def of_runs(several: Iterable[xr.DataTree]) -> str:
    """The noun of all arms that act in these runs; "intervention" where they differ, "mask" where nothing acts."""
    described = [run["metrics"].ds if "metrics" in run.children else run.ds for run in several]
    return _one({noun for data in described for noun in of_arms(data)})


def of_arms(dataset: xr.Dataset) -> set[str]:
    """The nouns of the arms of a dataset that act; of stores that have none, by their families."""
    coords = dataset.coords
    if "arm_noun" in coords:
        nouns = np.atleast_1d(coords["arm_noun"].values)
    elif "arm_family" in coords:
        families = np.atleast_1d(coords["arm_family"].values)
        nouns = np.array([by_family(str(family)) for family in families], object)
    else:
        return set()
    roles = np.atleast_1d(coords["arm_role"].values) if "arm_role" in coords else np.full(nouns.shape, "")
    return {str(noun) for noun, role in zip(nouns, roles, strict=True) if str(role) not in APART}


def by_family(family: str) -> str:
    """What an arm of an old store is: those held masks and removals of keys only."""
    return "removal" if family in REMOVALS else MASK


def _one(nouns: set[str]) -> str:
    return next(iter(nouns)) if len(nouns) == 1 else ANY if nouns else MASK
