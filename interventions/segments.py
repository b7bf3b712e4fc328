"""Neighbouring tokens of one kind, the parts that a `TokenLayout` is put together from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from interventions.errors import spec_error

IMAGE, TEXT, PREFIX, PADDING = 0, 1, 2, 3  # PADDING: a text token that only fills up the sequence, where that is known
KINDS = {"image": IMAGE, "text": TEXT, "prefix": PREFIX, "padding": PADDING}
EXAMPLE = "TokenLayout(grid=(16, 16), prefix=1)"


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one kind: "image", "text", "prefix" (neither state nor text: registers, a class token, a
    reference picture) or "padding" (fills up the sequence and is no word).

    size: how many tokens. grid: (frames, height, width) of the image segment, row-major and frame after frame; (height,
    width) is one frame, and the size need not be given with it. Raises `SpecError` for what describes no segment.
    """

    kind: str
    size: int = 0
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Bring the sizes to plain integers and refuse those that describe no segment."""
        if self.kind not in KINDS:
            raise spec_error(f"segment {self.kind!r}", f"its kind is one of {', '.join(KINDS)}", 'Segment("text", 77)')
        if (self.grid is not None) != (self.kind == "image"):
            why = "image tokens lie on a grid, and no others do"
            raise spec_error(f"{self.kind} segment with grid={self.grid!r}", why, 'Segment("image", grid=(16, 16))')
        object.__setattr__(self, "size", _count(f"{self.kind} segment", self.size))
        if self.grid is not None:
            grid = _grid(self.grid)
            if self.size not in (0, math.prod(grid)):
                why = f"a grid {shown(grid)} has {math.prod(grid)} tokens"
                raise spec_error(f"image segment of {self.size} tokens", why, f'Segment("image", grid={grid})')
            object.__setattr__(self, "grid", grid)
            object.__setattr__(self, "size", math.prod(grid))

    def __str__(self) -> str:
        """Return it in words: "5x8x8 image"."""
        return f"{self.size if self.grid is None else shown(self.grid)} {self.kind}"


def _count(what: str, value: object) -> int:
    """Return a number of tokens as a plain int."""
    try:
        count = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        raise spec_error(f"{what} of {value!r} tokens", "a token count is 0 or more", EXAMPLE)
    return count


def _grid(grid: object) -> tuple[int, int, int]:
    """Return (frames, height, width) from what was given: that, or (height, width)."""
    try:
        sides = tuple(int(side) for side in grid)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        sides = ()
    if len(sides) not in (2, 3):
        why = "a grid is (height, width) or (frames, height, width) in tokens"
        raise spec_error(f"grid={grid!r}", why, EXAMPLE)
    if min(sides) < 0 or (min(sides) == 0 and any(sides)):
        raise spec_error(f"grid={grid!r}", "all sides must be positive", EXAMPLE)
    frames, height, width = sides if len(sides) == 3 else (1, *sides)
    return frames, height, width


def shown(grid: Sequence[int]) -> str:
    """Return a grid as it is typed: 16x16, or 5x8x8 with frames; one frame is not counted."""
    sides = [int(side) for side in grid]
    return "x".join(map(str, sides[1:] if len(sides) == 3 and sides[0] == 1 else sides))
