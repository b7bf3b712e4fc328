"""Feature caches of our own: blocks that give what they gave earlier, in every k-th step or at steps of your choice.

`cache2` computes every second step of its window and reuses in between, the plain schedule of FORA (Selvaraju et al.,
arXiv:2407.01425) and the uniform baseline of every other cache. `reuse@steps=5:6;layers=2` lets one block stand still
in one step, which is the unit that a schedule is made of. What is kept of a block is its residual, output minus input,
as TeaCache (arXiv:2411.19108), FirstBlockCache and MagCache keep it: the tokens that enter are those of the step, and
what the blocks between add is new. `-output` keeps the output itself, as DeepCache (arXiv:2312.00858) keeps features:
then nothing of the step passes a reused block, and with all blocks the prediction is nearly held, as with fewer steps.
Which of the two ends nearer to the clean picture is the model's affair (docs/arms.md has it for the embedded ones).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.errors import spec_error
from interventions.layout import TokenLayout
from interventions.scope import UNSIGNED, read_number, whole

KEPT = ("residual", "output")


@dataclass(frozen=True)
class _Reusing(Change):
    """What the two have in common: in some steps blocks are computed and remembered, in the others they do not run."""

    kept: str = "residual"
    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause", "strength"})
    noun: ClassVar[str] = "cache"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what cannot be kept of a block."""
        if self.kept not in KEPT:
            raise spec_error(f"kept {self.kept!r}", f"it is one of {', '.join(KEPT)}", self.example)
        super().__post_init__()

    def reuses(self, step: int, steps: int) -> bool:
        """Whether blocks give in this step what they gave earlier."""
        raise NotImplementedError

    @property
    def _kept_in_name(self) -> str:
        return "-output" if self.kept == "output" else ""

    @contextmanager
    def around(self, network: Any, memory: Memory, at: At) -> Iterator[None]:
        """Blocks that compute remember, or do not run and give what is remembered."""
        from interventions.network.blocks import blocks, forwards
        from interventions.network.reuse import computed, reused
        from interventions.network.second import running

        forward = reused if self.reuses(at.step, at.steps) else computed
        chosen = blocks(running(network), self.scope.layers, self)
        with forwards({block.module: forward(block, memory, self.kept) for block in chosen}):
            yield

    def fingerprint(self, network: Any) -> str:
        """Nothing that the spec does not say."""
        return f"{self.kept} of whole blocks"

    def cost(self, at: At, layers: int) -> float:
        """1, or the share of the blocks that are computed where the others are reused."""
        if not self.reuses(at.step, at.steps):
            return 1.0
        return 1 - (layers if self.scope.layers is None else len(self.scope.layers)) / layers


@dataclass(frozen=True)
class EveryK(_Reusing):
    """`cache2`: of each window of steps in a row the steps 0, k, 2k ... are computed, and reused in between."""

    every: int = 2
    example: ClassVar[str] = "cache2"
    heads: ClassVar[tuple[str, ...]] = ("cache2", "cache2-output")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (r"cache[-_ ]?k?[-_ =]?(\d+)(-output)?", r"cache\1", "the number of steps stands directly behind"),
        (r"(?:fora|cache)", "cache2", "the number of steps is missing"),
    )

    def __post_init__(self) -> None:
        """Refuse what is no number of steps."""
        object.__setattr__(self, "every", whole("cache", self.every, 1, self.example))
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> EveryK | None:
        """Read `cache2` and `cache2-output`."""
        match = re.fullmatch(f"cache{UNSIGNED}(-output)?", head)
        return cls("output" if match[2] else "residual", read_number(match[1])) if match else None  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"cache{self.every}{self._kept_in_name}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "every-k-cache"

    def reuses(self, step: int, steps: int) -> bool:
        """Whether the step is none of 0, k, 2k ... of its window."""
        return bool(offset(step, self.window(steps)) % self.every)


@dataclass(frozen=True)
class Reuse(_Reusing):
    """`reuse@steps=5:6;layers=2`: at these steps these blocks give what they gave at the latest step before.

    The step before each window is computed along, so that there is something to give: it acts in it, without an error.
    """

    example: ClassVar[str] = "reuse@steps=5:6;layers=2"
    heads: ClassVar[tuple[str, ...]] = ("reuse",)

    @classmethod
    def read(cls, head: str) -> Reuse | None:
        """Read `reuse` and `reuse-output`."""
        return {"reuse": cls(), "reuse-output": cls("output")}.get(head)

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"reuse{self._kept_in_name}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "reuse"

    def window(self, steps: int) -> Sequence[int]:
        """The steps that it names, and before each window of them the step that is remembered (`extent` is without)."""
        named = self.scope.window(steps)
        return sorted({*named, *(step - 1 for step in named if step)})

    def reuses(self, step: int, steps: int) -> bool:
        """Whether it names the step."""
        return step in self.scope.window(steps)

    def check(
        self, layout: TokenLayout, layers: int | None = None, steps: int | None = None, heads: int | None = None
    ) -> None:
        """Raise besides for step 0, before which nothing was computed."""
        super().check(layout, layers=layers, steps=steps, heads=heads)
        if steps is not None and 0 in self.scope.window(steps):
            raise spec_error(
                f"{self}: steps", "before step 0 there is nothing to reuse", f"{self.name}@steps=1:{steps}"
            )


def offset(step: int, window: Sequence[int]) -> int:
    """How many steps a step is behind the first of its row of steps without a gap."""
    start = step
    while start - 1 in window:
        start -= 1
    return step - start
