"""What arms cost beside clean: network evaluations by count, and in the first unit seconds and multiply-adds.

Only arms that change the network (`Change`) are measured: each of their lanes is a network call of its own. A clean
call stands beside them in every step, with the seam set aside like theirs, because a call whose attention is recorded
takes longer. Masks share a call with other lanes, and save nothing here: what is masked is computed in full. Nothing
that is measured changes a number of the run: what is called twice draws from a copy of the random state and works on a
copy of the memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interventions import Intervention
from interventions.changes.base import At, Change, Memory
from interventions.changes.fewer import Moves
from interventions.changes.own import Context
from interventions.changes.together import Together
from tracer.arithmetic import multiply_adds

if TYPE_CHECKING:
    from tracer.denoisers.base import Sample
    from tracer.plan import Arm, Plan

Forward = Callable[[], Any]
CLEAN_CALL = "clean"


def evaluations(plan: Plan) -> np.ndarray:
    """Network evaluations of every arm in every step, by count and relative to clean: float32 [arm, step]."""
    steps, layers = plan.schedule.steps, plan.denoiser.layers
    return np.array([[evaluations_at(arm, i, steps, layers) for i in range(steps)] for arm in plan.arms], np.float32)


def evaluations_at(arm: Arm, i: int, steps: int, layers: int) -> float:
    """Those of one arm at step i: what its change says, and one more where it is mixed with clean; NaN if unknown."""
    if not (acts(arm, i) and isinstance(arm.spec, Change)):
        return 1.0
    if not _counted(arm.spec):
        return math.nan
    return arm.spec.cost(At(i, steps), layers) + (arm.spec.scope.strength < 1)


def acts(arm: Arm, i: int) -> bool:
    """Whether the arm is another network call than the clean one in step i."""
    return arm.departs and i in arm.window


def _counted(change: Change) -> bool:
    """Whether a change says by count what it saves. What remembers and does not say so may save anything."""
    if isinstance(change, Together):
        return all(_counted(part) for part in change.parts if isinstance(part, Change))
    return not change.remembers or type(change).cost is not Change.cost


def _repeatable(change: Change) -> bool:
    """Whether its forward may be made once more to be counted: not a user's context, which may count its own calls."""
    if isinstance(change, Together):
        return all(_repeatable(part) for part in change.parts if isinstance(part, Change))
    return getattr(change, "countable", True) and not isinstance(change, Context | Moves)


@dataclass
class Meter:
    """Seconds and multiply-adds of the network calls of one step, summed over its batches or calls.

    device: that is waited for. own_code: whether contexts of the user's are counted too (`--record cost` by name), for
    which they are entered once more. A change that remembers is counted in every step, any other once.
    """

    device: torch.device
    own_code: bool = False
    seconds: dict[Any, float] = field(default_factory=dict)
    products: dict[Any, float] = field(default_factory=dict)
    step: int = -1
    _once: dict[Any, float] = field(default_factory=dict)
    _done: set[Any] = field(default_factory=set)

    def begin(self) -> None:
        """Forget what the step took so far."""
        self.seconds, self.products, self._done = {}, {}, set()

    def at(self, step: int) -> None:
        """The calls from now on are of this step."""
        if step != self.step:
            self.begin()
        self.step = step

    def clean(self, forward: Forward, call: Any) -> None:
        """Make a clean call as changed ones are made, and measure it. call: tells apart the calls that a step makes."""
        if (CLEAN_CALL, call) in self._done:
            return
        self._done.add((CLEAN_CALL, call))
        with _as_it_was(self.device):
            self._add(self.seconds, CLEAN_CALL, self._timed(forward)[1])
        self._count(CLEAN_CALL, call, forward, nullcontext, again=False)

    def changed(
        self,
        change: Change,
        call: Any,
        forward: Forward,
        around: Callable[[Memory], AbstractContextManager[Any]],
        memory: Memory,
    ) -> Any:
        """The prediction of a changed network, measured where it is the first of this change in the step: the arm's
        own, not that at another state."""
        if first := (change, call) not in self._done:
            self._done.add((change, call))
            if _repeatable(change) or (self.own_code and not isinstance(change, Moves)):
                self._count(change, call, forward, lambda: around(change.forked(memory)), again=change.remembers)
            else:
                self._add(self.products, change, math.nan)
        with around(memory):
            prediction, seconds = self._timed(forward)
        if first:
            self._add(self.seconds, change, seconds)
        return prediction

    def of_step(self, plan: Plan, samples: int, i: int) -> dict[str, np.ndarray]:
        """What is written of step i, [arm, sample] each. An arm that does not act costs what the clean one does."""
        found = {}
        for name, values in (("seconds", self.seconds), ("arithmetic", self.products)):
            clean = values.get(CLEAN_CALL, math.nan)
            each = [self._of_arm(arm, i, plan.schedule.steps, values, clean) for arm in plan.arms]
            found[f"cost/{name}"] = np.repeat(np.array(each)[:, None], samples, axis=1)
        return found

    @staticmethod
    def _of_arm(arm: Arm, i: int, steps: int, values: dict[Any, float], clean: float) -> float:
        spec: Intervention = arm.spec
        if not acts(arm, i):
            return clean
        if not isinstance(spec, Change):
            return math.nan
        if isinstance(spec, Moves):
            return clean * spec.cost(At(i, steps), 0)
        return values.get(spec, math.nan) + (clean if spec.scope.strength < 1 else 0.0)

    def _timed(self, forward: Forward) -> tuple[Any, float]:
        self._wait()
        began = time.perf_counter()
        result = forward()
        self._wait()
        return result, time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _count(
        self, key: Any, call: Any, forward: Forward, context: Callable[[], AbstractContextManager[Any]], again: bool
    ) -> None:
        """Add the multiply-adds of a call; of one that does not change from step to step those of its first."""
        if again or (key, call) not in self._once:
            with _as_it_was(self.device), context():
                found, _ = multiply_adds(forward)
            self._once[key, call] = math.nan if found is None else found
        self._add(self.products, key, self._once[key, call])

    @staticmethod
    def _add(sums: dict[Any, float], key: Any, value: float) -> None:
        sums[key] = sums.get(key, 0.0) + value


def _as_it_was(device: torch.device) -> AbstractContextManager[Any]:
    """What is drawn inside is drawn from a copy of the random state."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def meter(plan: Plan, samples: Sequence[Sample]) -> Meter | None:
    """The meter of this unit: of the first one, in a run that records costs and has a change of the network."""
    changes = any(isinstance(arm.spec, Change) for arm in plan.arms)
    if "cost" not in plan.record or not changes or not any(sample.index == 0 for sample in samples):
        return None
    return Meter(plan.denoiser.device, own_code="cost" in plan.request.record)
