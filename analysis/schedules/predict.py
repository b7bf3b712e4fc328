"""What a schedule will do, from its cells alone, and how far that may be trusted.

Choosing and predicting on the same samples flatters the choice. So cells are chosen on one half of the samples and the
error is predicted on the other, and the other way round, several times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.answer.margins import LOG_MARGIN
from analysis.common.resampling import Resampled, resample
from analysis.common.runs import BAND_RESAMPLES
from analysis.common.statistics import BOUNDS, bca
from analysis.schedules.cells import Cells
from analysis.schedules.choose import Problem, choose, path
from interventions import rules

HALVINGS = 5
FEWEST = 4
"""Samples below which there are no halves to choose and predict on."""


@dataclass(frozen=True, eq=False)
class Plans:
    """The schedule of every saving, counted in steps' worth of block evaluations: 1 to all that the cells allow.

    approximated: those numbers [plan]. chosen: bool [plan, cell], on all samples. same: predicted squared error of it
    on these samples [plan, sample]. held_out: that of a schedule chosen on the other half [plan, sample]; NaN where
    there are too few.
    """

    cells: Cells
    approximated: np.ndarray
    chosen: np.ndarray
    same: np.ndarray
    held_out: np.ndarray

    @cached_property
    def expected(self) -> np.ndarray:
        """What fresh samples are expected to have [plan, sample]: held out where there are halves."""
        return np.where(np.isnan(self.held_out), self.same, self.held_out)

    def cover(self, plan: int) -> np.ndarray:
        """The block evaluations that a plan saves, bool [step, layer]."""
        return self.cells.covers[self.chosen[plan]].any(0)

    def rule(self, rule: str, plan: int) -> tuple[np.ndarray | None, np.ndarray]:
        """A rule at the cost of a plan [step, layer], and its predicted squared error [sample], NaN where unknown."""
        steps, layers = self.cells.covers.shape[1:]
        cover = rules.cover(rule, steps, layers, int(self.approximated[plan]))
        return cover, added(self.cells, cover)


def plans(cells: Cells, *, seed: int = 0) -> Plans:
    """Choose a schedule at every saving, and predict it on the samples that did not choose it."""
    every = np.arange(len(cells.gram))
    chosen = _chosen(cells, every)
    counts = np.array(sorted(chosen), dtype=int)
    sets = np.stack([chosen[count] for count in counts])
    held = np.full((len(counts), len(every)), np.nan)
    if len(every) >= FEWEST:
        held[:] = 0.0
        rng = np.random.default_rng(seed)
        for _ in range(HALVINGS):
            order = rng.permutation(every)
            halves = order[: len(every) // 2], order[len(every) // 2 :]
            for half, other in (halves, halves[::-1]):
                found = _chosen(cells, half)
                for place, count in enumerate(counts):
                    held[place, other] += squared(cells.gram[other], found[count]) / HALVINGS
    same = np.stack([squared(cells.gram, each) for each in sets])
    return Plans(cells, counts, sets, same, held)


def _chosen(cells: Cells, samples: np.ndarray) -> dict[int, np.ndarray]:
    """Steps' worth of saving -> the cells chosen on some samples, bool [cell]."""
    problem = Problem(cells.gram[samples].mean(0), cells.blocks, cells.conflicts)
    along, layers = path(problem), cells.covers.shape[2]
    found = {}
    for count in range(1, cells.steps):
        starts = [_as_set(cells, rules.cover(rule, cells.steps, layers, count)) for rule in rules.RULES]
        best = choose(problem, count * layers, [start for start in starts if start is not None], along)
        if best is None:
            break
        found[count] = best
    return found


def _as_set(cells: Cells, cover: np.ndarray | None) -> np.ndarray | None:
    parts = None if cover is None else cells.parts(cover)
    if parts is None:
        return None
    chosen = np.zeros(len(cells.arms), dtype=bool)
    chosen[parts] = True
    return chosen


def squared(gram: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Predicted squared error of a set of cells, bool [cell] or positions, if errors only add: [sample]."""
    places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    return np.maximum(gram[:, places[:, None], places].sum((1, 2)), 0.0)


def added(cells: Cells, cover: np.ndarray | None) -> np.ndarray:
    """Predicted squared error [sample] of any schedule [step, layer]; NaN where it is not made of cells."""
    parts = None if cover is None else cells.parts(cover)
    return np.full(len(cells.gram), np.nan) if parts is None else squared(cells.gram, parts)


def apart(cells: Cells, cover: np.ndarray | None) -> tuple[float, float]:
    """Root mean square of two other predictions: sizes added in quadrature, and sizes added up."""
    parts = None if cover is None else cells.parts(cover)
    if parts is None:
        return math.nan, math.nan
    sizes = np.sqrt(np.maximum(cells.gram[:, parts, parts], 0.0))
    return math.sqrt((sizes**2).sum(1).mean()), math.sqrt((sizes.sum(1) ** 2).mean())


def rms(values: np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> np.ndarray:
    """Root mean square of squared errors [..., sample] with its BCa limits: [..., bound], as `statistics.BOUNDS`."""
    found = bca(values, np.mean, confidence=confidence, resamples=BAND_RESAMPLES, seed=seed)
    return np.sqrt(np.maximum(np.stack([found.low, found.estimate, found.high], axis=-1), 0.0))


def ratio(one: np.ndarray, other: np.ndarray, *, paired: bool, confidence: float = 0.95, seed: int = 0) -> np.ndarray:
    """Ratio of the root mean squares of two sets of squared errors [sample] with limits [bound].

    paired: whether they are of the same samples, which are then drawn together (BCa); else each is resampled by itself.
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all() and one.any() and other.any()):
        return np.full(len(BOUNDS), np.nan)
    estimate = math.log(one.mean() / other.mean()) / 2
    if paired:
        together = resample(
            lambda chosen: np.log(one[chosen].mean(-1) / other[chosen].mean(-1)) / 2, len(one), seed=seed
        )
        low, high = together.interval(confidence)
    else:
        low, high = _difference(_log_rms(one, seed), _log_rms(other, seed + 1), confidence)
    return np.exp(np.array([low, estimate, high]))


def _log_rms(values: np.ndarray, seed: int) -> Resampled:
    return resample(lambda chosen: np.log(values[chosen].mean(-1)) / 2, len(values), seed=seed)


def _difference(one: Resampled, other: Resampled, confidence: float) -> tuple[float, float]:
    """Percentile limits of the difference of two independent estimates."""
    if not (one.replicates.size and other.replicates.size):
        return math.nan, math.nan
    low, high = np.quantile(one.replicates - other.replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def geometric(one: np.ndarray, other: np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> np.ndarray:
    """Geometric mean over the same samples of the ratio of two errors, given squared [sample]: [bound]."""
    found = bca(np.log(one / other) / 2, np.mean, confidence=confidence, seed=seed)
    return np.exp(np.array([found.low, found.estimate, found.high], dtype=float))


def answer(interval: np.ndarray) -> str:
    """Whether a prediction held, of the interval of measured over predicted: inside the margin of 1.25, or beyond."""
    low, _, high = np.log(interval)
    if np.isnan(low):
        return "unknown"
    if low > LOG_MARGIN or high < -LOG_MARGIN:
        return "failed"
    return "held" if low >= -LOG_MARGIN and high <= LOG_MARGIN else "undecided"
