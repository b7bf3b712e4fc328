"""Predicted against measured: arms that are made of cells, in the run that has the cells or in a fresh one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.common import pairing, runs
from analysis.schedules.cells import Cells, acts, squared
from analysis.schedules.predict import Plans, added
from interventions import rules

SCHEDULE, OTHER, FEWER = "schedule", "other", "fewer steps, same levels"
CONTROLS = (*rules.RULES, FEWER)
"""What a schedule is compared with at equal cost."""


@dataclass(frozen=True, eq=False)
class Tested:
    """An arm that was run: what it is, what it saves, and its squared errors, predicted and measured.

    kind: a rule's name, `FEWER`, "schedule" for one that this study gives, "other". blocks: block evaluations
    saved. predicted: [sample of the study], of a schedule held out, NaN where it is made of no cells. together: the
    prediction that nothing is held out of. measured: [sample of its own run].
    """

    arm: str
    kind: str
    blocks: int
    predicted: np.ndarray
    together: np.ndarray
    measured: np.ndarray


def tested(run: xr.DataTree, plans: Plans) -> list[Tested]:
    """The arms of a run that save blocks of the study's layers and are no cells, and those of fewer steps."""
    cells = plans.cells
    covers = {arm: cells.cover(parts) for arm, parts in acts(run).items() if arm not in cells.arms}
    found = [
        Tested(arm, *_expected(plans, cover), squared(run, arm, cells.scale))
        for arm, cover in covers.items()
        if cover is not None
    ]
    layers, unknown = cells.covers.shape[2], added(cells, None)
    for arm in runs.arms(run):
        if arm.family == "fewer-steps":
            blocks = (cells.steps - int(arm.parameters["count"])) * layers
            found.append(Tested(arm.name, FEWER, blocks, unknown, unknown, squared(run, arm.name, cells.scale)))
    return found


def _expected(plans: Plans, cover: np.ndarray) -> tuple[str, int, np.ndarray, np.ndarray]:
    """What a schedule is, what it saves, and its predicted squared error [sample], held out and not."""
    together, rule = added(plans.cells, cover), rules.name_of(cover)
    for plan in range(len(plans.chosen)):
        if (plans.cover(plan) == cover).all():
            return rule or SCHEDULE, int(cover.sum()), plans.expected[plan], together
    return rule or OTHER, int(cover.sum()), together, together


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
    """Every schedule, and other arm, with each control that saves as much, or less by a part of a step."""
    step = cells.covers.shape[2]
    return [
        (one, rule)
        for one in arms
        for rule in arms
        if one.kind not in CONTROLS and rule.kind in CONTROLS and 0 <= one.blocks - rule.blocks < step
    ]
