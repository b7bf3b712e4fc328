"""Fewer steps, and another sampler, as arms: the control that every cache has to beat at equal cost.

`steps14` asks the network at 14 of the run's steps, spread evenly, and holds its clean-image prediction over the steps
between. With DDIM and Euler's method that is exactly the run with 14 steps on those levels: a step moves the state on
the straight line that the held prediction fixes, so the steps between add up to one long one. With DDPM it is the
posterior of the long step under the sum of the noises, but for a learned variance, whose range fraction is held too.
`sampler-ddim` moves by another sampler at the same levels. Neither touches the network.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.errors import spec_error
from interventions.scope import NUMBER, read_number, whole


class Moves(Change):
    """What changes how the state moves and not what the network answers: there is no context around a forward."""

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """It has none."""
        raise TypeError(f"{self} changes no forward: the loop moves its states")


@dataclass(frozen=True)
class FewerSteps(Moves):
    """`steps14`: the network is asked at `count` of the steps and its clean-image prediction is held between."""

    count: int
    options: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[str] = "steps14"
    heads: ClassVar[tuple[str, ...]] = ("steps14",)
    noun: ClassVar[str] = "coarser schedule"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no number of steps."""
        object.__setattr__(self, "count", whole("steps", self.count, 1, self.example))
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> FewerSteps | None:
        """Read `steps14`."""
        match = re.fullmatch(f"steps{NUMBER}", head)
        return cls(read_number(match[1])) if match else None  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"steps{self.count}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "fewer-steps"

    @property
    def role(self) -> str:
        """What the same cost buys without an approximation."""
        return "control"

    def asks(self, step: int, steps: int) -> bool:
        """Whether the network is asked in this step: the first of every group of steps that one prediction serves."""
        return step == 0 or step * self.count // steps != (step - 1) * self.count // steps

    def cost(self, at: At, layers: int) -> float:
        """1 where the network is asked, else 0."""
        return float(self.asks(at.step, at.steps))

    def check_steps(self, steps: int) -> None:
        """Raise `SpecError` where the run has not more steps."""
        if self.count > steps:
            raise spec_error(self, f"the run has {steps} steps, and fewer were meant", f"steps{max(1, steps // 2)}")


@dataclass(frozen=True)
class OtherSampler(Moves):
    """`sampler-ddim`: the state moves by another sampler, at the levels and with the noise of the run."""

    sampler: str
    options: ClassVar[frozenset[str]] = frozenset({"steps", "pause"})
    example: ClassVar[str] = "sampler-ddim"
    heads: ClassVar[tuple[str, ...]] = ("sampler-ddim",)
    noun: ClassVar[str] = "sampler"

    @classmethod
    def read(cls, head: str) -> OtherSampler | None:
        """Read `sampler-ddim`."""
        match = re.fullmatch(r"sampler-([A-Za-z][\w-]*)", head)
        return cls(match[1]) if match else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"sampler-{self.sampler}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "other-sampler"

    @property
    def role(self) -> str:
        """What another way of moving changes by itself."""
        return "control"
