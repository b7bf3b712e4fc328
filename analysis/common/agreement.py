"""Whether a measured value agrees with a published one, and whether it shows the pattern that a paper claims.

Works on 95% intervals alone, since nothing else of a published value is known. Two ways to look: `agreement` compares
two numbers of the same quantity; `pattern` asks of one number what a paper says of its sign or size.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import NormalDist

from interventions.errors import InputError

AGREE, DIFFER, UNDECIDED = "agree", "differ", "undecided"
SAME, OTHER, NOT_TOLD = "same pattern", "other pattern", "not told"
_NARROWER = NormalDist().inv_cdf(0.95) / NormalDist().inv_cdf(0.975)
"""Half of a 90% interval over half of a 95% interval of a normal distribution."""
_CLAIM = re.compile(r"(above|below|within) ([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% limits; NaN limits where no interval is known."""

    low: float
    value: float
    high: float

    @classmethod
    def of(cls, numbers: tuple[float, ...]) -> Estimate:
        """From (low, value, high), or from (value,) alone."""
        return cls(*numbers) if len(numbers) == 3 else cls(math.nan, numbers[0], math.nan)

    @property
    def known(self) -> bool:
        """Whether its interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def at_90(self) -> Estimate:
        """The 90% interval of the same shape: each side as much narrower as a normal's is."""
        below, above = _NARROWER * (self.value - self.low), _NARROWER * (self.high - self.value)
        return Estimate(self.value - below, self.value, self.value + above)


def difference(ours: Estimate, published: Estimate) -> Estimate:
    """Ours minus published, with an interval from both intervals; of a published value without one, from ours alone.

    Each limit takes the sides of both intervals that lie towards it, in quadrature (MOVER).
    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures", Statistics in Medicine 27.
    """
    apart = ours.value - published.value
    exact = Estimate(published.value, published.value, published.value)
    other = published if published.known else exact
    return Estimate(
        apart - math.hypot(ours.value - ours.low, other.high - other.value),
        apart,
        apart + math.hypot(ours.high - ours.value, other.value - other.low),
    )


def agreement(ours: Estimate, published: Estimate, margin: float) -> str:
    """`agree`, `differ` or `undecided`, by the difference of two independent estimates of the same quantity.

    They agree where its 90% interval lies inside +-margin (two one-sided tests at 5%), differ where its 95% interval
    lies outside, and are undecided else: an interval that is too wide for either is no agreement. Without an interval
    of ours nothing is decided.
    """
    if not ours.known:
        return UNDECIDED
    wide = difference(ours, published)
    narrow = wide.at_90()
    if -margin <= narrow.low and narrow.high <= margin:
        return AGREE
    if wide.low > margin or wide.high < -margin:
        return DIFFER
    return UNDECIDED


def pattern(ours: Estimate, claim: str) -> str:
    """`same pattern`, `other pattern` or `not told`, of a claim "above X", "below X" or "within X".

    Above and below ask the 95% interval. Within X claims an effect of at most X either way: the 90% interval must lie
    inside +-X, and the other pattern needs the 95% interval outside. Raises InputError for another claim.
    """
    word, bound = read_claim(claim)
    if not ours.known:
        return NOT_TOLD
    if word == "within":
        narrow = ours.at_90()
        if -bound <= narrow.low and narrow.high <= bound:
            return SAME
        return OTHER if ours.low > bound or ours.high < -bound else NOT_TOLD
    above, below = ours.low > bound, ours.high < bound
    if word == "below":
        above, below = below, above
    return SAME if above else OTHER if below else NOT_TOLD


def read_claim(claim: str) -> tuple[str, float]:
    """`above 0` -> ("above", 0.0). Raises InputError for anything else, naming what may be claimed."""
    if not (match := _CLAIM.fullmatch(claim)):
        raise InputError(f'claim "{claim}": write "above X", "below X" or "within X", for example "above 0"')
    return match[1], float(match[2])
