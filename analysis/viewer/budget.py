"""What a payload leaves out so that it fits: where pictures are most of it quality, frames, size and samples, where
numbers are most of it samples and arms.

It only chooses; the payload is made by `payload`, which says what was left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from analysis.viewer import frames

SAMPLES = 16
ARMS = 8
PROBED = 4
"""Frames that are packed to learn how large a strip is."""
Cut = tuple[str, int]
OF_PICTURES: tuple[Cut, ...] = (
    ("quality", frames.LOSSY), ("frames", 25), ("longest", 256), ("samples", 8), ("frames", 10), ("longest", 128),
    ("samples", 4), ("frames", 6), ("longest", 64), ("samples", 2), ("samples", 1), ("arms", 4), ("arms", 1),
)  # fmt: skip
OF_NUMBERS: tuple[Cut, ...] = (
    ("samples", 8), ("samples", 4), ("arms", 4), ("samples", 2), ("arms", 2), ("samples", 1), ("arms", 1),
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """How much of a run a payload holds; None is no limit.

    samples, arms: at most so many. frames: of a strip. longest: pixels of a frame's longer side. quality: of WebP, None
    for lossless.
    """

    samples: int | None = SAMPLES
    arms: int = ARMS
    frames: int | None = None
    longest: int | None = None
    quality: int | None = None


def cuts(choice: Choice, kind: tuple[Cut, ...]) -> Iterator[Choice]:
    """Smaller and smaller choices, one cut after the other; cuts that change nothing are left out."""
    for name, value in kind:
        now: Any = getattr(choice, name)
        if now is None or (name != "quality" and now > value):
            choice = replace(choice, **{name: value})
            yield choice
