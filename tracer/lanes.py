"""Which evaluations a step needs: a lane is a state and the intervention that the network runs under there.

Arms share lanes where they ask the same question, the clean one above all. Nothing is evaluated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from interventions import Intervention
from interventions.spec import Clean, Full
from tracer import gains as jacobian
from tracer.plan import Plan
from tracer.samplers.advance import evaluations_of_step as evaluations_of_sampler


class Lane(NamedTuple):
    """One evaluation of a step. `state`: "clean", ("arm", m), or ("pushed", m), the clean state plus arm m's last
    injection; `spec` is the intervention it runs under."""

    state: Any
    spec: Intervention


CLEAN = Lane("clean", Clean())


@dataclass(frozen=True)
class Roles:
    """Which lane answers which question for one arm at one step: F(x), G(y), F(y), G(x) and the null.

    The letters are those of docs/science.md, "Decomposition" and "The additive null". None: it is not asked.
    """

    own: Lane  # G(y)
    injected: Lane | None = None  # G(x)
    propagated: Lane | None = None  # F(y)
    pushed: Lane | None = None  # F at x + last injection


def roles_of_step(plan: Plan, i: int) -> dict[int, Roles]:
    """For every arm that has departed from the clean one by step i, or departs in it: its lanes."""
    roles = {}
    for m, arm in enumerate(plan.arms):
        if not arm.departs or i < arm.window[0]:
            continue
        state = "clean" if i == arm.window[0] else ("arm", m)
        acting = i in arm.window
        own = Lane(state, arm.spec if acting else CLEAN.spec)
        if "injected" not in plan.record or isinstance(arm.spec, Full):  # the floor is not worth three more lanes
            roles[m] = Roles(own)
            continue
        injected = Lane("clean", arm.spec) if acting else CLEAN
        propagated = Lane(state, CLEAN.spec) if "decomposition" in plan.record else None
        pushed = Lane(("pushed", m), CLEAN.spec) if "null" in plan.record and i - 1 in arm.window else None
        roles[m] = Roles(own, injected, propagated, pushed)
    return roles


def lanes_of_step(plan: Plan, i: int) -> list[Lane]:
    """The distinct evaluations of step i; the clean one is first."""
    lanes = {CLEAN: None}
    for role in roles_of_step(plan, i).values():
        lanes.update(dict.fromkeys(lane for lane in (role.own, role.injected, role.propagated, role.pushed) if lane))
    return list(lanes)


def evaluations_of_step(plan: Plan, i: int) -> int:
    """Network evaluations of step i per sample, lanes and what the linear gains take (guidance not counted)."""
    count = len(lanes_of_step(plan, i))
    if "tangent" in plan.record:
        departed = [arm for arm in plan.arms if arm.departs and not isinstance(arm.spec, Full)]
        count += jacobian.TANGENT_COST * sum(i > arm.window[0] for arm in departed)
    if "worst" in plan.record:
        count += jacobian.WORST_COST
    return count * evaluations_of_sampler(plan.sampler, plan.schedule, i)
