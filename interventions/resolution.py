"""Which other resolutions of a token grid have a given number of tokens: the levels of a UNet.

Sizes only; `layout` decides what a call of that many tokens is.
"""

from __future__ import annotations

import math

_SCALES = 6  # a UNet halves its grid at most this many times; 2**6 = 64 covers a 1-token bottom of a 64 x 64 latent

Box = tuple[int, int, int]  # (frames, height, width)


def resolutions(box: Box, tokens: int) -> list[Box]:
    """Return the boxes with that many tokens: height and width halved (rounding up) or doubled equally often.

    The frames are kept, halved or doubled with some of the levels, or looked at one by one. Of one frame there is at
    most one box. With frames several may fit, and lengths alone cannot tell them apart.
    """
    frames, height, width = box
    if tokens == math.prod(box):
        return [box]
    found: list[Box] = []
    for level in range(-_SCALES, _SCALES + 1):
        along = range(level + 1) if level >= 0 else range(0, level - 1, -1)
        counts = [1] if frames == 1 else [*(scaled(frames, step) for step in along), *([1] if level <= 0 else [])]
        for count in counts:
            candidate = (count, scaled(height, level), scaled(width, level))
            if math.prod(candidate) == tokens and candidate not in found:
                found.append(candidate)
    return found


def scaled(side: int, level: int) -> int:
    """Return a side doubled `level` times, or halved so often where that is negative, rounding up."""
    return side * 2**level if level >= 0 else -(-side // 2**-level)
