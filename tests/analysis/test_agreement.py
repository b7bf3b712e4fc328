"""When a value agrees with a published one, and when it shows the claimed pattern: closed forms and error rates."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.common.agreement import (
    AGREE,
    DIFFER,
    NOT_TOLD,
    OTHER,
    SAME,
    UNDECIDED,
    Estimate,
    agreement,
    difference,
    pattern,
)
from interventions.errors import InputError


def normal(value: float, se: float) -> Estimate:
    half = float(stats.norm.ppf(0.975)) * se
    return Estimate(value - half, value, value + half)


def test_the_difference_of_two_normal_estimates_has_the_root_of_summed_variances():
    apart = difference(normal(3.0, 0.3), normal(1.0, 0.4))
    expected = normal(2.0, 0.5)
    assert (apart.low, apart.value, apart.high) == pytest.approx((expected.low, 2.0, expected.high))
    narrow = apart.at_90()
    assert narrow.high - narrow.value == pytest.approx(stats.norm.ppf(0.95) * 0.5)


def test_a_skewed_interval_keeps_the_side_that_lies_towards_the_limit():
    """By hand: low 1 - sqrt(.1^2 + .4^2), high 1 + sqrt(.3^2 + .2^2) (Zou and Donner 2008, equation 3)."""
    apart = difference(Estimate(1.9, 2.0, 2.3), Estimate(0.8, 1.0, 1.4))
    assert apart.low == pytest.approx(1 - math.hypot(0.1, 0.4))
    assert apart.high == pytest.approx(1 + math.hypot(0.3, 0.2))


@pytest.mark.parametrize(
    ("ours", "published", "verdict"),
    [
        (normal(0.30, 0.005), normal(0.295, 0.005), AGREE),
        (normal(0.30, 0.005), Estimate.of((0.295,)), AGREE),
        (normal(0.10, 0.005), normal(0.295, 0.005), DIFFER),
        (normal(0.295, 0.2), normal(0.295, 0.005), UNDECIDED),  # equal, and too wide to mean anything
        (normal(0.35, 0.01), normal(0.295, 0.005), UNDECIDED),  # different, and perhaps by less than the margin
        (Estimate.of((0.295,)), normal(0.295, 0.005), UNDECIDED),  # no interval of ours
    ],
)
def test_only_a_narrow_interval_inside_the_margin_is_agreement(ours, published, verdict):
    assert agreement(ours, published, 0.05) == verdict


def test_at_a_true_difference_of_the_margin_no_more_than_one_in_twenty_is_called_agreement_or_difference():
    rng, se, margin = np.random.default_rng(0), 0.01, 0.05
    verdicts = [agreement(normal(margin + rng.normal(0, se), se), Estimate.of((0.0,)), margin) for _ in range(4000)]
    for word, level in ((AGREE, 0.05), (DIFFER, 0.025)):
        assert verdicts.count(word) / 4000 == pytest.approx(level, abs=0.011)


@pytest.mark.parametrize(
    ("ours", "claim", "seen"),
    [
        (normal(0.3, 0.01), "above 0", SAME),
        (normal(-0.3, 0.01), "above 0", OTHER),
        (normal(0.01, 0.01), "above 0", NOT_TOLD),
        (normal(-0.3, 0.01), "below -0.1", SAME),
        (normal(0.3, 0.01), "below 0", OTHER),
        (normal(0.001, 0.001), "within 0.01", SAME),
        (normal(0.0, 0.1), "within 0.01", NOT_TOLD),  # contains 0, and shows nothing
        (normal(0.05, 0.01), "within 0.01", OTHER),
        (Estimate.of((0.3,)), "above 0", NOT_TOLD),
    ],
)
def test_a_pattern_is_seen_only_where_the_interval_says_so(ours, claim, seen):
    assert pattern(ours, claim) == seen


def test_another_claim_is_refused_with_what_may_be_written():
    with pytest.raises(InputError, match='write "above X"'):
        pattern(normal(0, 1), "positive")
