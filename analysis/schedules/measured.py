"""Predicted against measured: arms that are made of cells, in the run that has the cells or in a fresh one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.common import pairing, runs
from analysis.schedules import rules
from analysis.schedules.cells import Cells, acts, squared
from analysis.schedules.predict import Plans, added

SCHEDULE, OTHER = "schedule", "other"


@dataclass(frozen=True, eq=False)
class Tested:
    """An arm that was run: what it is, what it saves, and its squared errors, predicted and measured.

    kind: a rule's name, "schedule" for one that this study gives, "other". cover: bool [step, layer]. predicted:
    [sample of the study], of a schedule held out, NaN where it is made of no cells. measured: [sample of its own run].
    """

    arm: str
    kind: str
    cover: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray

    @property
    def blocks(self) -> int:
        """Block evaluations that it saves."""
        return int(self.cover.sum())


def tested(run: xr.DataTree, plans: Plans) -> list[Tested]:
    """The arms of a run that save blocks of the study's layers and are no cells themselves."""
    cells = plans.cells
    covers = {arm: cells.cover(parts) for arm, parts in acts(run).items() if arm not in cells.arms}
    return [
        Tested(arm, *_expected(plans, cover), squared(run, arm, cells.scale))
        for arm, cover in covers.items()
        if cover is not None
    ]


def _expected(plans: Plans, cover: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """What a schedule is, its cover, and its predicted squared error [sample]."""
    for plan in range(len(plans.chosen)):
        if (plans.cover(plan) == cover).all():
            return SCHEDULE, cover, plans.expected[plan]
    return rules.name_of(cover) or OTHER, cover, added(plans.cells, cover)


def fresh(run: xr.DataTree, study: xr.DataTree) -> int:
    """How many samples of a run the study did not have. Raises RunError where the two are different experiments."""
    one, two = runs.configuration(study), runs.configuration(run)
    for name in (*pairing.FIXED, "steps"):
        if one.get(name) != two.get(name):
            raise runs.RunError(
                f"the measured run differs from the study in {name} ({two.get(name)} and {one.get(name)}): run the "
                "command that `trace analyze schedule` prints for it"
            )
    known = set(pairing.identities(study))
    return sum(name not in known for name in pairing.identities(run))


def beside(arms: list[Tested], cells: Cells) -> list[tuple[Tested, Tested]]:
    """Every schedule, and other arm, with each rule that saves the same share of a step or less less than it does."""
    step = cells.covers.shape[2]
    return [
        (one, rule)
        for one in arms
        for rule in arms
        if one.kind not in rules.RULES and rule.kind in rules.RULES and 0 <= one.blocks - rule.blocks < step
    ]
