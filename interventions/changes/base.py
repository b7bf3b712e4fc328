"""What a change of the network is: an intervention that acts around a forward, and may remember earlier ones.

Nothing is evaluated here: the trajectory loop enters `Change.around` for every forward of an arm, with the memory of
the path that the forward belongs to.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.families.base import Intervention

Memory = dict[str, Any]
"""What a change keeps from step to step of one path."""


@dataclass(frozen=True)
class At:
    """Where in a run one forward of the network is: step `step` of `steps`, its `call`-th forward in that step."""

    step: int
    steps: int
    call: int = 0


class Change(Intervention):
    """What is done to the network around its forward, not at the attention seam.

    A family like any other: frozen, read from a spec's head, with a scope. `remembers`: whether it has memory from step
    to step. `shares`: whether the forwards of a step (the conditional, the unconditional one) share a memory where a
    pipeline names them to it, as diffusers' caches do; else each has its own. `replaces`: whether another network runs
    in its place, which `network.second.running` finds. A dose a < 1 (`strength`) is F + a (G - F) of the predictions,
    which the loop takes care of.
    """

    options: ClassVar[frozenset[str]] = frozenset({"steps", "pause", "strength"})
    noun: ClassVar[str] = "change"
    remembers: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    replaces: ClassVar[bool] = False

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The context of ONE forward of `network`, entered before it and left after it.

        memory: this path's and this call's own, empty at the first step in which the change acts, the same one in the
        steps after. Where a path forks, the arm departing from the clean states, it is copied (`forked`): G(x) has a
        memory made along the clean states, G(y) its own. A change without memory is handed an empty one every time.
        """
        raise NotImplementedError

    def forked(self, memory: Memory) -> Memory:
        """A memory of its own for the other path, where a path forks."""
        return copy.deepcopy(memory)

    def cost(self, at: At, layers: int) -> float:
        """Share of a clean evaluation that this step takes, by count; 1 where nothing is skipped."""
        return 1.0
