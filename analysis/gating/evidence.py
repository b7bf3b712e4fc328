"""One series a metric: what an arm loses against clean, sample by sample, and the unit that the loss is measured in.

Every question is a ratio of two means, loss over unit, held against a margin by one-sided t tests over samples; its
interval inverts them (Fieller 1954). A statistic that is no mean, as a standard deviation or a distance of sets, comes
as its jackknife pseudo-values, whose mean it is (Tukey 1958). So one kind of test serves all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from analysis.common import set_distances, statistics
from analysis.gating.margins import FEWEST, LEVEL, MARGINS, POWER

Kind = Literal["picture", "score", "share", "set"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one metric says of one arm. A positive loss is bad.

    loss, unit: [n], their means are the loss and its unit. kind: which margin it is held against. samples: starts that
    were compared, which may be fewer than n (`share`).
    """

    metric: str
    kind: Kind
    loss: np.ndarray = field(repr=False)
    unit: np.ndarray = field(repr=False)
    margin: float
    samples: int
    clean: float = math.nan
    """The metric's own value of the clean pictures, and of the arm's."""
    value: float = math.nan

    @property
    def is_picture(self) -> bool:
        """Whether it tells if the picture is the same, and not how good it is."""
        return self.kind == "picture"

    @property
    def enough(self) -> bool:
        """Whether there are samples enough to claim anything."""
        return self.samples >= FEWEST

    @property
    def estimate(self) -> float:
        """The loss in units; of a share, as counted."""
        if self.kind == "share":
            return float(self.loss.sum()) / self.samples
        unit = float(self.unit.mean())
        return float(self.loss.mean()) / unit if unit else (0.0 if not self.loss.any() else math.nan)

    def interval(self, confidence: float = 1 - 2 * LEVEL) -> tuple[float, float]:
        """The losses that the tests do not exclude; (-inf, inf) where the unit itself is not told from 0."""
        return ratio_interval(self.loss, self.unit, confidence) if self.enough else (math.nan, math.nan)

    def p_within(self) -> float:
        """One-sided p of "the loss reaches the margin": small where the arm is no worse than that."""
        return self._p(self.loss - self.margin * self.unit, above=False)

    def p_beyond(self) -> float:
        """One-sided p of "the loss stays within the margin": small where the arm is worse than that."""
        return self._p(self.loss - self.margin * self.unit, above=True)

    def p_better(self) -> float:
        """One-sided p of "the gain stays within the margin"; 1 where there is nothing to gain, as of a distance."""
        return self._p(self.loss + self.margin * self.unit, above=False) if self.kind in ("score", "share") else 1.0

    def _p(self, series: np.ndarray, *, above: bool) -> float:
        if not self.enough:
            return 1.0
        return float((statistics.p_above if above else statistics.p_below)(series))

    def leans_within(self) -> bool:
        """Whether the estimate lies inside the margin."""
        return bool((self.loss - self.margin * self.unit).mean() < 0)

    def needed(self, tests: int = 1) -> int:
        """Samples with which the side of the margin that was seen would be shown, at `POWER` and the level over tests.

        A normal approximation from what these samples show; 0 where they do not vary.
        """
        series = self.loss - self.margin * self.unit
        sd, away = float(series.std(ddof=1)) if len(series) > 1 else math.nan, abs(float(series.mean()))
        if not sd > 0 or not away > 0:
            return 0
        return max(FEWEST, statistics.samples_for_bound(sd, away, POWER, LEVEL / tests))


def ratio_interval(loss: np.ndarray, unit: np.ndarray, confidence: float) -> tuple[float, float]:
    """All m for which a two-sided t test of mean(loss - m unit) = 0 does not reject; paired series [n].

    Source: Fieller 1954, "Some problems in interval estimation".
    """
    n = len(loss)
    t2 = stats.t.ppf((1 + confidence) / 2, n - 1) ** 2 / n
    mean, per = float(loss.mean()), float(unit.mean())
    (ll, lu), (_, uu) = np.cov(loss, unit)
    a, b, c = per**2 - t2 * uu, mean * per - t2 * lu, mean**2 - t2 * ll
    if a <= 0:
        return (0.0, 0.0) if not loss.any() else (-math.inf, math.inf)
    half = math.sqrt(max(0.0, b**2 - a * c))
    return (b - half) / a, (b + half) / a


def of_distance(
    metric: str, distance: np.ndarray, unrelated: np.ndarray, margin: float = MARGINS["picture"]
) -> Evidence:
    """Distances [n] of an arm's pictures to their clean twins, in that of clean pictures that are unrelated [n]."""
    return Evidence(metric, "picture", distance, unrelated, margin, len(distance), 0.0, float(distance.mean()))


def of_scores(
    metric: str, clean: np.ndarray, arm: np.ndarray, margins: Mapping[str, float] = MARGINS, *, higher: bool = True
) -> Evidence:
    """Scores [n] of clean pictures and of an arm's; `higher` says which way is good.

    Yes/no scores (0 and 1 alone) lose a share, others a part of the clean standard deviation. A share has one gain and
    one loss added, without which no loss among few samples would be sure to stay none (Bonett and Price 2012, "Adjusted
    Wald confidence interval for a difference of binomial proportions based on paired data").
    """
    loss, n = (clean - arm) * (1 if higher else -1), len(clean)
    values = float(clean.mean()), float(arm.mean())
    if np.isin(clean, (0, 1)).all() and np.isin(arm, (0, 1)).all():
        loss = np.append(loss, (1.0, -1.0))
        return Evidence(metric, "share", loss, np.ones(n + 2), margins["share"], n, *values)
    return Evidence(metric, "score", loss, spread(clean), margins["score"], n, *values)


def of_sets(metric: str, clean: np.ndarray, arm: np.ndarray, margin: float = MARGINS["set"]) -> Evidence:
    """Features [n, d]: the unbiased squared MMD of paired sets, in the kernel's variance among clean pictures.

    With CMMD's wide kernel on unit vectors that is the squared distance of the means over the variance, summed over
    features (`set_distances.mmd`); it is 0 on average where both sets are of one distribution.
    """
    own, cross = set_distances.kernel(clean, clean), set_distances.kernel(clean, arm)
    h = own + set_distances.kernel(arm, arm) - cross - cross.T
    value = float(set_distances.mmd(clean, arm, unbiased=True)(np.arange(len(clean))))
    return Evidence(metric, "set", of_pairs(h), of_pairs(1 - own), margin, len(clean), 0.0, value)


def spread(values: np.ndarray) -> np.ndarray:
    """Pseudo-values [n] of the standard deviation (ddof 1) of values [n], n at least 3."""
    n, apart = len(values), values - values.mean()
    total = (apart**2).sum()
    without = (total - apart**2 * n / (n - 1)) / (n - 2)  # variance of the others, sample by sample
    return n * math.sqrt(total / (n - 1)) - (n - 1) * np.sqrt(np.maximum(without, 0))


def of_pairs(h: np.ndarray) -> np.ndarray:
    """Pseudo-values [n] of the mean of h [n, n], symmetric, over pairs of different samples; n at least 3."""
    n = len(h)
    rows = h.sum(1) - np.diag(h)
    total = rows.sum()
    return total / (n - 1) - (total - 2 * rows) / (n - 2)
