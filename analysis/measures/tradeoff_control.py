"""Does an approximation beat fewer steps at equal cost? One question per arm, judged by margins fixed beforehand.

The control is the run with fewer steps: what anybody gets for the same cost without an approximation. Between two
numbers of steps its log error is taken as linear in its log cost, sample by sample; nothing is extrapolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.common import resampling, statistics

MARGIN = 1.1
"""On the ratio of two errors: less than a tenth either way is equal (arbitrary, fixed before any run)."""
LEVEL = 0.05
BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "equal", "undecided"
NO_CONTROL, IS_CONTROL = "no control at this cost", "the control"
SAME_COST = 1e-9
"""Relative difference up to which two costs are one."""


@dataclass(frozen=True)
class Beside:
    """An arm beside the control at its cost: `ratio` of the errors [low, estimate, high] at 95%, `control` the error of
    the control there, p of the answer that its interval comes nearest to, and that answer before Holm's correction."""

    answer: str
    ratio: tuple[float, float, float] = (math.nan,) * 3
    control: float = math.nan
    p: float = math.nan
    why: str = ""


def errors_at(cost: float, costs: np.ndarray, errors: np.ndarray) -> np.ndarray | None:
    """The control's errors [start] at a cost, from points at these costs [point] with errors [point, start].

    None beyond the points, and between two of which one has no error: its logarithm is not there to be interpolated.
    """
    same = np.flatnonzero(np.abs(costs - cost) <= SAME_COST * np.maximum(costs, cost))
    if same.size:
        return errors[same[0]]
    below, above = np.flatnonzero(costs < cost), np.flatnonzero(costs > cost)
    if not (below.size and above.size):
        return None
    low, high = below[costs[below].argmax()], above[costs[above].argmin()]
    if not (costs[low] > 0 and (errors[[low, high]] > 0).all()):
        return None
    share = math.log(cost / costs[low]) / math.log(costs[high] / costs[low])
    return np.asarray(np.exp((1 - share) * np.log(errors[low]) + share * np.log(errors[high])))


def beside(own: np.ndarray, control: np.ndarray | None, *, diverged: tuple[int, int], seed: int = 0) -> Beside:
    """Judge an arm's errors [start] against the control's at the same cost.

    A start in which one of the two has no error has no ratio: an arm without any error is better than a control with
    one, and the other way round; else these starts are left out, and only the answer that they would strengthen stands.
    diverged: samples lost by the arm and by the control, which are in neither array; nothing bounds their errors, so an
    answer in favour of who lost some is withheld.
    """
    if control is None:
        return Beside(NO_CONTROL)
    middle = float(np.exp(np.log(control[control > 0]).mean())) if (control > 0).any() else 0.0
    for one, other, sure, quotient in ((own, control, BETTER, 0.0), (control, own, WORSE, math.inf)):
        if not one.any() and (other > 0).all():
            return Beside(sure, (math.nan, quotient, math.nan), middle, why="one of the two has no error at all")
    if not own.any() and not control.any():
        return Beside(EQUAL, control=0.0, why="neither has any error")
    there = (own > 0) & (control > 0)
    if not there.any():
        return Beside(UNDECIDED, control=middle, why="no sample in which both have an error")
    logs = np.log(own[there] / control[there])
    found = resampling.resample(lambda index: logs[index].mean(-1), len(logs), seed=seed)
    low, high = found.interval(0.95)
    ratio = (math.exp(low), math.exp(found.estimate), math.exp(high))
    if not found.replicates.size:
        return Beside(UNDECIDED, ratio, middle, why=f"fewer than {statistics.FEWEST_SAMPLES} starts")
    answer, p = _answer(found)
    favours = {BETTER: diverged[0] or (control == 0).any(), WORSE: diverged[1] or (own == 0).any()}
    withheld = favours.get(answer, any(diverged) or not there.all())
    why = ""
    if withheld and answer != UNDECIDED:
        why = f"withheld, by the samples that are left {answer}"
        answer = UNDECIDED
    return Beside(answer, ratio, middle, p, why)


def _answer(found: resampling.Resampled) -> tuple[str, float]:
    """The answer whose p is smallest: the 95% interval beyond a margin, or the 90% interval inside both."""
    log = math.log(MARGIN)
    levels = {
        BETTER: min(1.0, 2 * found.p_below(-log)),
        WORSE: min(1.0, 2 * found.p_above(log)),
        EQUAL: max(found.p_above(-log), found.p_below(log)),
    }
    answer = min(levels, key=lambda name: levels[name])
    return answer, levels[answer]


def corrected(found: list[Beside]) -> tuple[list[str], np.ndarray]:
    """The answers of all arms after Holm's correction, and the corrected p."""
    p = statistics.holm(np.array([one.p for one in found]))
    kept = [
        UNDECIDED if np.isfinite(one.p) and not level <= LEVEL else one.answer
        for one, level in zip(found, p, strict=True)
    ]
    return kept, p
