"""The usual rules for which steps to approximate: uniform, and the first quarter exact, then uniform.

A study runs them and an analysis recognises them; they are what a schedule has to beat at equal cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

RULES = {"uniform": 0.0, "first quarter exact": 0.25}
"""Rule -> the share of the run that it computes exactly before it begins."""


def rows(steps: Iterable[int]) -> list[tuple[int, int]]:
    """Return the rows of steps that follow each other, as half-open windows, ascending."""
    found: list[tuple[int, int]] = []
    for step in sorted(steps):
        if found and step == found[-1][1]:
            found[-1] = found[-1][0], step + 1
        else:
            found.append((step, step + 1))
    return found


def steps_of(rule: str, steps: int, approximated: int) -> tuple[int, ...] | None:
    """The steps that a rule approximates, so many of `steps`: those computed are spread evenly, the first is computed.

    Every k-th step is computed where the numbers divide. None where the exact part leaves too few.
    """
    first = math.ceil(RULES[rule] * steps)
    computed = steps - first - approximated
    if computed < 1 or approximated < 1:
        return None
    kept = {first + place * (steps - first) // computed for place in range(computed)}
    return tuple(step for step in range(first, steps) if step not in kept)


def windows_of(steps: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Steps as a scope takes them: half-open windows."""
    return tuple(rows(steps))


def cover(rule: str, steps: int, layers: int, approximated: int) -> np.ndarray | None:
    """What a rule approximates in all layers, bool [step, layer]."""
    chosen = steps_of(rule, steps, approximated)
    if chosen is None:
        return None
    found = np.zeros((steps, layers), dtype=bool)
    found[list(chosen)] = True
    return found


def name_of(found: np.ndarray) -> str | None:
    """Which rule a schedule [step, layer] is, None for none."""
    approximated = int(found.all(1).sum())
    for rule in RULES:
        expected = cover(rule, len(found), found.shape[1], approximated)
        if expected is not None and (expected == found).all():
            return rule
    return None
