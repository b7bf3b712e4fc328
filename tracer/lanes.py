"""Which evaluations a step needs: a lane is a state and the intervention that the network runs under there.

Arms share lanes where they ask the same question, the clean one above all. Nothing is evaluated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from interventions import Intervention
from interventions.changes.base import Change
from interventions.changes.fewer import FewerSteps, Moves
from interventions.spec import Clean, Full
from tracer import gains as jacobian
from tracer.plan import Arm, Plan
from tracer.samplers.advance import evaluations_of_step as evaluations_of_sampler


class Lane(NamedTuple):
    """One evaluation of a step: the state it reads and the intervention `spec` it runs under.

    `state` is "clean" or (kind, m) for arm m. Kinds: "arm" y; "replay" w; "pushed" the clean state plus the last
    injection; "handed" F(y) and "replay-handed" F(w) of the step before; "ahead" and "behind" the clean state moved a
    little along the transported error.
    """

    state: Any
    spec: Intervention

    def asked(self, i: int, steps: int) -> Lane | None:
        """The lane that the network is asked for at step i of so many; None where an earlier prediction is held."""
        if isinstance(self.spec, FewerSteps) and not self.spec.asks(i, steps):
            return None
        return Lane(self.state, CLEAN.spec) if isinstance(self.spec, Moves) else self

    @property
    def diluted(self) -> bool:
        """Whether its prediction is mixed with that of the clean network at the same state."""
        return isinstance(self.spec, Change) and self.spec.scope.strength < 1


CLEAN = Lane("clean", Clean())


@dataclass(frozen=True)
class Roles:
    """Which lane answers which question for one arm at one step. None: it is not asked.

    The letters are those of docs/science.md, "Decomposition" and "The additive null". `sums`: sum -> the two lanes
    whose predictions differ by what the step before contributes to it.
    """

    own: Lane  # G(y)
    injected: Lane | None = None  # G(x)
    propagated: Lane | None = None  # F(y)
    replayed: Lane | None = None  # F(w)
    transported: tuple[Lane, Lane] | None = None  # F(x + h u), F(x - h u)
    sums: Mapping[str, tuple[Lane, Lane]] = field(default_factory=dict)

    def lanes(self) -> Iterator[Lane]:
        """All of them, one may come twice."""
        yield from (lane for lane in (self.own, self.injected, self.propagated, self.replayed) if lane is not None)
        yield from self.transported or ()
        for pair in self.sums.values():
            yield from pair


def roles_of_step(plan: Plan, i: int) -> dict[int, Roles]:
    """For every arm that has departed from the clean one by step i, or departs in it: its lanes.

    i may be the number of steps: what is left is then read off the final states.
    """
    return {m: _roles(plan, m, i) for m, arm in enumerate(plan.arms) if arm.departs and i >= arm.window[0]}


def _roles(plan: Plan, m: int, i: int) -> Roles:
    arm, clean = plan.arms[m], CLEAN.spec
    masked = _state(arm, m, i)
    acting = i in arm.window
    own = Lane(masked, arm.spec if acting else clean)
    if "injected" not in plan.record or isinstance(arm.spec, Full):  # the floor is not worth more lanes
        return Roles(own)
    transported = Lane(("ahead", m), clean), Lane(("behind", m), clean)
    return Roles(
        own,
        injected=Lane("clean", arm.spec) if acting else CLEAN,
        propagated=Lane(masked, clean) if plan.record & {"decomposition", "own"} else None,
        replayed=Lane(_replayed(arm, m, i), clean) if "replay" in plan.record else None,
        transported=transported if "transport" in plan.record and i > arm.window[0] else None,
        sums=_sums(plan, m, i) if i - 1 in arm.window else {},
    )


def _sums(plan: Plan, m: int, i: int) -> dict[str, tuple[Lane, Lane]]:
    """The lanes that say what step i - 1, in which arm m acted, contributes to each sum that is recorded."""
    arm, clean, sums = plan.arms[m], CLEAN.spec, {}
    if "null" in plan.record:
        sums["null"] = Lane(("pushed", m), clean), CLEAN
    if "own" in plan.record:
        handed = "clean" if i - 1 == arm.window[0] else ("handed", m)
        sums["own"] = Lane(_state(arm, m, i), clean), Lane(handed, clean)
        replay_handed = handed if replay_is_own(arm, i - 1) else ("replay-handed", m)
        sums["replay_own"] = Lane(_replayed(arm, m, i), clean), Lane(replay_handed, clean)
    return sums


def replay_is_own(arm: Arm, i: int) -> bool:
    """Whether the replay's state before step i is the arm's own: until the mask acts a second time.

    The first injection is made at the clean state, so both paths take it; between two injections both are clean steps.
    """
    return len(arm.window) < 2 or i <= arm.window[1]


def _state(arm: Arm, m: int, i: int) -> Any:
    return "clean" if i == arm.window[0] else ("arm", m)


def _replayed(arm: Arm, m: int, i: int) -> Any:
    return _state(arm, m, i) if replay_is_own(arm, i) else ("replay", m)


def lanes_of_step(plan: Plan, i: int) -> list[Lane]:
    """The distinct evaluations of step i: the clean one, then those of `measured_lanes`, then the rest."""
    roles = roles_of_step(plan, i).values()
    named = list(dict.fromkeys([*measured_lanes(plan, i), *(lane for role in roles for lane in role.lanes())]))
    beside = (Lane(lane.state, CLEAN.spec) for lane in named if lane.diluted)
    return list(dict.fromkeys([*named, *beside]))


def asked_lanes(lanes: Sequence[Lane], i: int, steps: int) -> list[Lane]:
    """What the network is asked for in these lanes, each once, in order."""
    return list(dict.fromkeys(asked for lane in lanes if (asked := lane.asked(i, steps)) is not None))


def measured_lanes(plan: Plan, i: int) -> list[Lane]:
    """The lanes of step i whose attention is recorded: the clean one and where each arm itself stands."""
    return list(dict.fromkeys([CLEAN, *(role.own for role in roles_of_step(plan, i).values())]))


def evaluations(plan: Plan) -> int:
    """Network evaluations of the whole run (guidance not counted); an arm may be run on the first samples only."""
    few = {min(arm.samples, len(plan.samples)) for arm in plan.arms if arm.samples is not None}
    total = 0
    for start, stop in pairwise(sorted({0, *few, len(plan.samples)})):
        alike = plan.of(plan.samples[start:stop])
        total += (stop - start) * sum(evaluations_of_step(alike, i) for i in range(plan.schedule.steps))
    return total


def evaluations_of_step(plan: Plan, i: int) -> int:
    """Network evaluations of step i per sample, lanes and what the linear gains take (guidance not counted)."""
    count = len(asked_lanes(lanes_of_step(plan, i), i, plan.schedule.steps))
    if "tangent" in plan.record:
        departed = [arm for arm in plan.arms if arm.departs and not isinstance(arm.spec, Full)]
        count += jacobian.TANGENT_COST * sum(i > arm.window[0] for arm in departed)
    if "worst" in plan.record:
        count += jacobian.WORST_COST
    return count * evaluations_of_sampler(plan.sampler, plan.schedule, i)
