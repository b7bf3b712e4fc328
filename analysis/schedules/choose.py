"""Which cells to approximate: the smallest predicted squared error at a given saving.

If errors only add, the error of a set of cells is the sum of theirs, and its mean square is 1' G 1 with the Gram matrix
G of the cells (docs/schedules.md). Finding the best set is a quadratic knapsack; here a greedy path is improved by
exchanges. It is not exact: how near it comes is measured in tests/analysis/test_schedule_choice.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Problem:
    """gram: mean scalar products [cell, cell]. blocks: block evaluations saved [cell]. conflicts: bool [cell, cell]."""

    gram: np.ndarray
    blocks: np.ndarray
    conflicts: np.ndarray

    def error(self, chosen: np.ndarray) -> float:
        """Predicted mean squared error of a set, bool [cell]."""
        return float(self.gram[np.ix_(chosen, chosen)].sum())

    def saved(self, chosen: np.ndarray) -> int:
        """Block evaluations that a set saves."""
        return int(self.blocks[chosen].sum())


def in_quadrature(problem: Problem) -> Problem:
    """The same problem, scalar products of different cells left out."""
    return Problem(np.diag(np.diag(problem.gram)), problem.blocks, problem.conflicts)


def path(problem: Problem) -> list[np.ndarray]:
    """The greedy sets, each saving more than the one before, until nothing can be added: bool [cell] each.

    A move adds a cell and takes out those that it excludes (so that a row of steps grows into a longer one); it is the
    one with the smallest increase of the squared error per block evaluation saved.
    """
    chosen = np.zeros(len(problem.blocks), dtype=bool)
    found: list[np.ndarray] = []
    while True:
        increase, gain = _moves(problem, chosen)
        possible = ~chosen & (gain > 0)
        if not possible.any():
            return found
        rate = np.where(possible, increase / np.maximum(gain, 1), np.inf)
        chosen = _moved(problem, chosen, int(np.argmin(rate)))
        found.append(chosen)


def _moves(problem: Problem, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Increase of the squared error and of the saving [cell] when a cell is added and those it excludes go."""
    gram, present = problem.gram, chosen.astype(float)
    row = gram @ present
    out = problem.conflicts * present  # [added, taken out]
    increase = np.diag(gram) + 2 * (row - (out * gram).sum(1)) - 2 * out @ row + ((out @ gram) * out).sum(1)
    return increase, problem.blocks - out @ problem.blocks


def _moved(problem: Problem, chosen: np.ndarray, added: int) -> np.ndarray:
    result = chosen & ~problem.conflicts[added]
    result[added] = True
    return result


def choose(
    problem: Problem, target: int, starts: Iterable[np.ndarray] = (), along: list[np.ndarray] | None = None
) -> np.ndarray | None:
    """The best set found that saves at least `target` block evaluations, bool [cell]; None where none does.

    starts: sets to improve beside the greedy one, such as the usual rules. along: the greedy path, where it is known.
    """
    along = path(problem) if along is None else along
    first = next((chosen for chosen in along if problem.saved(chosen) >= target), None)
    begin = [chosen for chosen in (first, *starts) if chosen is not None and problem.saved(chosen) >= target]
    return min((_improved(problem, chosen, target) for chosen in begin), key=problem.error, default=None)


def _improved(problem: Problem, chosen: np.ndarray, target: int) -> np.ndarray:
    """Exchanges, and cells taken out, as long as one lowers the error at the saving asked for."""
    chosen, gram, blocks = chosen.copy(), problem.gram, problem.blocks
    square = np.diag(gram)
    while True:
        row, inside, outside = gram @ chosen, np.flatnonzero(chosen), np.flatnonzero(~chosen)
        spare = blocks[chosen].sum() - target
        out = np.append(square[inside] - 2 * row[inside], 0.0)  # the last: nothing is taken out
        into = np.append(2 * row[outside] + square[outside], 0.0)
        change = out[:, None] + into[None, :]
        change[:-1, :-1] -= 2 * gram[np.ix_(inside, outside)]
        apart = problem.conflicts[np.ix_(inside, outside)]
        clash = np.zeros(change.shape, dtype=int)
        clash[:, :-1] = apart.sum(0)
        clash[:-1, :-1] -= apart
        less = np.append(blocks[inside], 0)[:, None] - np.append(blocks[outside], 0)[None, :]
        change = np.where((clash > 0) | (less > spare), np.inf, change)
        best = np.unravel_index(np.argmin(change), change.shape)
        if not change[best] < -TINY * max(float(square.max()), 1e-300):
            return chosen
        if best[0] < len(inside):
            chosen[inside[best[0]]] = False
        if best[1] < len(outside):
            chosen[outside[best[1]]] = True
