"""Which cells to approximate: the smallest predicted squared error at a given saving.

If errors only add, the error of a set of cells is the sum of theirs, and its mean square is 1' G 1 with the Gram matrix
G of the cells (docs/schedules.md). Finding the best set is a quadratic knapsack; here a greedy path is improved by
exchanges. It is not exact: how near it comes is measured in tests/analysis/test_schedule_choice.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

TINY = 1e-12
MOST_PAIRED = 200
"""Cells of which pairs are exchanged; of more, one for one alone."""


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
    """Exchanges, and cells taken out, as long as one lowers the error at the saving asked for.

    One for one, none for one and one for none; where none of these helps, two for one and one for two.
    """
    least = -TINY * max(float(np.diag(problem.gram).max()), 1e-300)
    while True:
        for pairs in (False, True):
            change, leaving, entering = _best_exchange(problem, chosen, target, pairs=pairs)
            if change < least:
                chosen = chosen.copy()
                chosen[leaving], chosen[entering] = False, True
                break
        else:
            return chosen


def _best_exchange(
    problem: Problem, chosen: np.ndarray, target: int, *, pairs: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """The change of the squared error by the best exchange that keeps the saving, what leaves and what enters.

    pairs: two for one and one for two, else at most one for one.
    """
    inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    spare = int(problem.blocks[chosen].sum()) - target
    if not pairs:
        return _exchange(problem, chosen, spare, _ones(inside), _ones(outside))
    two_in, two_out = (_pairs(cells, problem.conflicts) for cells in (outside, inside))
    found = [
        _exchange(problem, chosen, spare, two_out, outside[:, None]),
        _exchange(problem, chosen, spare, inside[:, None], two_in),
    ]
    return min(found, key=lambda each: each[0])


def _pairs(cells: np.ndarray, conflicts: np.ndarray) -> np.ndarray:
    """Pairs of cells that do not exclude each other [pair, 2]; none where there are too many to look at."""
    several = combinations(cells.tolist(), 2) if len(cells) <= MOST_PAIRED else ()
    return np.array([pair for pair in several if not conflicts[pair]], dtype=int).reshape(-1, 2)


def _ones(cells: np.ndarray) -> np.ndarray:
    """One cell each, and none, as -1: [choice, 1]."""
    return np.append(cells, -1)[:, None]


def _exchange(
    problem: Problem, chosen: np.ndarray, spare: int, leaving: np.ndarray, entering: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The best of these to leave [choice, cells] and these to enter: its change, and both; infinite where none may."""
    out, into = (_members(part, len(chosen)) for part in (leaving, entering))  # [choice, cell]
    if not (len(out) and len(into)):
        return np.inf, np.array([], int), np.array([], int)
    present = chosen.astype(float)
    row, gram, near = problem.gram @ present, problem.gram, problem.conflicts.astype(float)
    lower = ((out @ gram) * out).sum(1) - 2 * out @ row
    upper = ((into @ gram) * into).sum(1) + 2 * into @ row
    change = lower[:, None] + upper[None, :] - 2 * (out @ gram) @ into.T
    clash = (into @ near @ present)[None, :] - out @ near @ into.T
    less = (out @ problem.blocks)[:, None] - (into @ problem.blocks)[None, :]
    change = np.where((clash > 0.5) | (less > spare + 0.5), np.inf, change)
    best = np.unravel_index(np.argmin(change), change.shape)
    return float(change[best]), np.flatnonzero(out[best[0]]), np.flatnonzero(into[best[1]])


def _members(choices: np.ndarray, cells: int) -> np.ndarray:
    """Choices of cells [choice, cells], -1 for none, as sets: float [choice, cell]."""
    sets = np.zeros((len(choices), cells + 1))
    np.put_along_axis(sets, choices, 1.0, axis=1)
    return sets[:, :cells]
