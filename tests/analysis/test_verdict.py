"""The rule on arrays: the margins, the three answers, what withholds them, and how often its intervals are right."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.answer import calibration, margins, rule
from analysis.answer.rule import claims, decide
from analysis.common.resampling import resample

L = math.log(1.25)


def test_the_margins_are_those_fixed_beforehand():
    assert (margins.MARGIN, margins.SLOPE_MARGIN, margins.WORDS_MARGIN) == (1.25, 0.10, 1.1)
    assert pytest.approx(0.2231436, abs=1e-7) == margins.LOG_MARGIN
    assert margins.CALIBRATION == (0.9, 1.1)


def quantiles(mean, sd, n=64):
    """A sample with exactly this mean and standard deviation, normal in shape."""
    values = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


# --- the three answers ---


@pytest.mark.parametrize(
    ("value", "ratio_label", "along_label"),
    [
        (0.3, "amplifying", "amplified"),
        (L + 1e-6, "amplifying", "amplified"),
        (L - 1e-6, "none", "additive"),
        (0.0, "none", "additive"),
        (1e-6 - L, "none", "additive"),
        (-L - 1e-6, "damping", "contracted"),
    ],
)
def test_samples_without_spread_fall_into_the_region_of_their_value(value, ratio_label, along_label):
    answers = decide(np.full(12, value), np.full(12, value))
    assert (answers.feedback, answers.along, answers.steps_answer) == (ratio_label, along_label, "undecided")
    np.testing.assert_allclose(answers.intervals.sel(quantity="feedback"), math.exp(value), rtol=1e-12)


@pytest.mark.parametrize(("value", "label"), [(0.101, "grows"), (0.099, "flat"), (-0.099, "flat"), (-0.101, "shrinks")])
def test_the_slope_of_feedback_on_steps_has_the_margin_of_a_tenth(value, label):
    assert decide(np.zeros(12), None, np.full(12, value)).steps_answer == label


@pytest.mark.parametrize(
    ("mean", "sd", "label"),
    [
        # half widths at sd .9, n 64: .185 at 90%, .2205 at 95%; L = .2231 lies just beyond either
        (0.0, 0.95, "none"),
        (0.0, 1.2, "undecided"),
        (L + 0.14, 0.5, "amplifying"),  # half width .122 at 95%
        (L + 0.112, 0.5, "undecided"),  # though .104 at 90%
        (-L - 0.14, 0.5, "damping"),
        (-L - 0.112, 0.5, "undecided"),
    ],
)
def test_equivalence_reads_the_90_percent_interval_and_differences_the_95_percent(mean, sd, label):
    """Half widths from the normal quantiles 1.645 and 1.96, times sd / sqrt(64)."""
    assert decide(quantiles(mean, sd), resamples=4999).feedback == label


def test_the_quoted_intervals_are_scipys():
    logs = np.random.default_rng(2).gamma(2, 0.4, 40)
    intervals = decide(logs, logs[::-1], logs).intervals
    expected = {
        "feedback": (np.mean, np.exp),
        "systematic": (np.mean, np.exp),
        "steps_answer": (np.mean, lambda value: value),
        "feedback_rms": (lambda x, axis: 0.5 * np.log(np.exp(2 * x).mean(axis=axis)), np.exp),
    }
    for name, (statistic, scale) in expected.items():
        for level in (0.90, 0.95):
            exact = stats.bootstrap((logs,), statistic, confidence_level=level, rng=np.random.default_rng(9))
            low, high = scale(exact.confidence_interval.low), scale(exact.confidence_interval.high)
            ours = intervals.sel(quantity=name, confidence=level)
            assert float(ours.sel(bound="low")) == pytest.approx(low, abs=0.05 * (high - low))
            assert float(ours.sel(bound="high")) == pytest.approx(high, abs=0.05 * (high - low))
            assert float(ours.sel(bound="estimate")) == pytest.approx(float(scale(statistic(logs, axis=-1))), rel=1e-12)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_a_p_value_is_the_level_at_which_the_interval_reaches_the_bound(level):
    values = np.random.default_rng(3).gamma(2, 1, 30)
    drawn = resample(lambda index: values[index].mean(-1), 30)
    low, high = drawn.interval(level)
    assert drawn.p_above(low) == pytest.approx((1 - level) / 2, abs=3e-4)
    assert drawn.p_below(high) == pytest.approx((1 - level) / 2, abs=3e-4)


def test_the_p_of_an_answer_is_below_five_percent_where_the_interval_gives_it():
    for mean in (-0.5, 0.0, 0.5):
        assert decide(quantiles(mean, 0.3, 24)).p["feedback"] < 0.05
    assert math.isnan(decide(quantiles(L, 0.3, 24)).p["feedback"])


# --- the trajectory: systematic amplification times the slope on N* ---


def grams(slope, starts=24, paths=8, spread=0.2, seed=0):
    """Gram sums of the paths of every start whose ratio is `slope`, with noise; and the number of the start."""
    rng = np.random.default_rng(seed)
    bottom = 4 + spread * rng.normal(size=(starts, paths))
    top = slope * bottom + spread * rng.normal(size=(starts, paths))
    return np.stack([top.ravel(), bottom.ravel()]), np.repeat(np.arange(starts), paths)


def test_the_slope_on_the_own_path_sum_multiplies_the_systematic_amplification():
    """|N*|/|N| = 1.1 and slope 1.5 make 1.65; both known exactly, so the product is."""
    gram, starts = grams(1.5, spread=0)
    answers = decide(np.zeros(192), np.full(192, math.log(1.1)), gram=gram, starts=starts)
    assert answers.along == "amplified"
    np.testing.assert_allclose(answers.intervals.sel(quantity="along"), 1.65, rtol=1e-12)
    np.testing.assert_allclose(answers.intervals.sel(quantity="calibration"), 1.5, rtol=1e-12)
    np.testing.assert_allclose(answers.intervals.sel(quantity="systematic"), 1.1, rtol=1e-12)
    assert answers.calibration == calibration.DEPARTS


@pytest.mark.parametrize(
    ("slope", "spread", "verdict"),
    [
        (1.0, 0.2, calibration.KEPT),
        (1.3, 0.2, calibration.DEPARTS),
        (0.7, 0.2, calibration.DEPARTS),
        (1.05, 6.0, calibration.UNCERTAIN),
    ],
)
def test_the_slope_is_a_posterior_means_only_if_its_interval_lies_within_a_tenth(slope, spread, verdict):
    gram, starts = grams(slope, spread=spread)
    assert decide(np.zeros(192), np.zeros(192), gram=gram, starts=starts).calibration == verdict


def test_an_error_that_x_T_does_not_predict_is_blind_and_not_additive():
    """Gram sums around 0, as of feedback on centred data: the slope means nothing and is taken as 1."""
    rng = np.random.default_rng(1)
    gram, starts = rng.normal(size=(2, 192)), np.repeat(np.arange(24), 8)
    answers = decide(np.full(192, 0.5), np.full(192, 0.5), gram=gram, starts=starts)
    assert (answers.calibration, answers.along) == ("no part predictable from x_T", "amplified")
    assert np.isnan(answers.intervals.sel(quantity="calibration")).all()
    guided = decide(np.full(192, 0.5), np.full(192, 0.5), gram=gram, starts=starts, posterior_mean=False)
    assert guided.along == "undecided"
    assert "no posterior mean" in guided.reasons["along"][0]


def test_without_paths_the_slope_is_not_measured():
    answers = decide(np.zeros(12), np.zeros(12), gram=np.full((2, 12), np.nan))
    assert (answers.calibration, answers.along) == ("not measured", "additive")
    assert decide(np.zeros(12), np.zeros(12), posterior_mean=False).along == "undecided"


def test_the_systematic_amplification_may_be_known_of_some_samples_only():
    logs = np.where(np.arange(24) < 12, 0.5, np.nan)
    answers = decide(np.zeros(24), logs)
    assert (answers.feedback, answers.along) == ("none", "amplified")
    assert (answers.starts["feedback"], answers.starts["along"]) == (24, 12)


# --- what withholds an answer ---


def test_rare_strong_samples_withhold_the_label_but_a_log_normal_spread_does_not():
    rare = quantiles(0.0, 0.1)
    rare[[3, 30]] = math.log(20)  # 2 of 64: geometric mean 1.1, RMS 3.6
    answers = decide(rare - rare.mean())
    assert answers.feedback == "undecided"
    assert "rare samples lie further out than a log-normal spread" in answers.reasons["feedback"][0]
    spread = decide(quantiles(0.0, 0.8))  # RMS exp(.64) by its spread alone
    assert spread.feedback == "none"
    assert float(spread.intervals.sel(quantity="feedback_rms", confidence=0.95, bound="estimate")) > 1.25
    assert rule.intermittency_p(quantiles(0.0, 0.8)) > 0.05


def test_the_intermittency_test_errs_as_often_as_it_says():
    draws = np.random.default_rng(4).normal(0.3, 0.7, (400, 64))
    assert np.mean([rule.intermittency_p(row, draws=199) < 0.05 for row in draws]) == pytest.approx(0.05, abs=0.03)


def test_nothing_measured_is_undecided():
    answers = decide(None)
    assert (answers.feedback, answers.along, answers.steps_answer) == ("undecided",) * 3
    assert np.isnan(answers.intervals).all()
    assert "feedback S not measured: undecided" in answers.sentence.lower().replace("feedback s", "feedback S")


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_starts_are_undecided_and_say_why(n):
    answers = decide(np.full(n, 2.0))
    assert answers.feedback == "undecided"
    assert "at least 3 starts" in answers.sentence


def test_few_starts_carry_a_warning():
    assert "too narrow" in decide(quantiles(0, 0.1, 5)).sentence
    assert "too narrow" not in decide(quantiles(0, 0.1, 10)).sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, np.nan, 0.2],), r"1 of 3 values of log_feedback are NaN.*samples 1"),
        (([0.1, 0.2, 0.3], None, [0.0, np.inf]), "feedback_slope are NaN or infinite"),
        (([0.1, 0.2], [0.0, 0.1, 0.2]), "of the same samples"),
        (([],), "non-empty"),
        ((np.zeros((4, 3)),), "step_slope\\(values, steps\\)"),
        ((0.3,), "one value per sample"),
    ],
)
def test_input_that_is_not_one_finite_value_per_sample_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        decide(*arguments)


def test_starts_and_gram_must_fit_the_samples():
    with pytest.raises(ValueError, match="the start of each of 4 samples"):
        decide(np.zeros(4), starts=[0, 1])
    with pytest.raises(ValueError, match=r"\[2, sample\] with 4 samples"):
        decide(np.zeros(4), np.zeros(4), gram=np.zeros((2, 3)))


# --- words ---


def test_an_undecided_answer_names_the_margin_it_lies_across_and_what_it_excludes():
    text = decide(quantiles(math.log(1.2), 0.25, 24)).sentence
    assert "Feedback S 1.20 [1.0" in text
    assert "across the margin of 1.25: undecided, and at most 1.3" in text
    assert "starts would settle it" in text
    assert "across the margin of 0.8: undecided, and at least 0.7" in decide(quantiles(-0.2, 0.25, 24)).sentence
    assert "across both margins" in decide(quantiles(0, 1.5, 24)).sentence


def test_none_says_the_margin_that_the_interval_fits_in():
    assert "none, less than 1.1-fold either way" in decide(quantiles(0, 0.1, 24)).sentence
    assert "none, less than 1.25-fold either way" in decide(quantiles(0, 0.45, 24)).sentence


def test_the_plan_of_an_undecided_study_is_the_published_formula():
    """Difference at 2.5%, 90% power: (1.96 + 1.2816)^2 (sd / distance)^2 = 10.51 * 25 = 263 at sd .5, distance .1."""
    logs = quantiles(L + 0.1, 0.5, 40)
    drawn = resample(lambda index: logs[index].mean(-1), 40)
    assert int(rule.starts_needed(drawn, 40, L).split()[1]) == pytest.approx(263, rel=0.06)


def test_the_slope_per_sample_is_numpys_least_squares():
    rng = np.random.default_rng(1)
    steps, logs = [50, 100, 250, 1000], rng.normal(size=(6, 4))
    np.testing.assert_allclose(rule.step_slope(logs, steps), np.polyfit(np.log(steps), logs.T, 1)[0], rtol=1e-10)
    logs[2, 1] = np.nan
    assert np.isnan(rule.step_slope(logs, steps)).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("steps", "shape"), [([50], (4, 1)), ([50, 50], (4, 2)), ([50, 100], (4, 3)), ([0, 9], (4, 2))]
)
def test_a_slope_needs_different_counts_that_fit(steps, shape):
    with pytest.raises(ValueError, match=r"number|counts"):
        rule.step_slope(np.zeros(shape), steps)


# --- the claim ---


@pytest.mark.parametrize(
    ("along", "expected"),
    [
        ({1.0: "amplified"}, {1.0: "supported"}),
        ({1.0: "additive"}, {1.0: "open"}),  # full dose alone, which may be saturated
        ({0.1: "additive", 0.01: "additive"}, {0.1: "open", 0.01: "open"}),
        ({1.0: "additive", 0.1: "contracted"}, {1.0: "open", 0.1: "open"}),
        ({1.0: "contracted", 0.1: "additive", 0.01: "additive"}, {1.0: "refuted", 0.1: "refuted", 0.01: "refuted"}),
        ({1.0: "contracted", 0.1: "additive", 0.01: "undecided"}, {1.0: "open", 0.1: "open", 0.01: "open"}),
        ({1.0: "additive", 0.1: "additive", 0.01: "amplified"}, {1.0: "open", 0.1: "open", 0.01: "supported"}),
        ({1.0: "undecided", 0.1: "additive", 0.01: "additive"}, {1.0: "open", 0.1: "open", 0.01: "open"}),
    ],
)
def test_the_claim_is_refuted_only_at_full_dose_and_in_the_linear_regime(along, expected):
    assert claims(along) == expected


# --- how often the intervals are right ---


@pytest.mark.parametrize(("paths", "within"), [(1, 0.0), (8, 0.4)])
def test_intervals_over_starts_cover_the_truth_also_where_paths_are_nested_in_them(paths, within):
    """Starts of sd .3, paths of sd `within`: 24 starts; nominal 95%. Samples taken for independent would cover less."""
    rng = np.random.default_rng(5)
    nested, flat = [], []
    for _ in range(150):
        logs = (rng.normal(0, 0.3, (24, 1)) + rng.normal(0, within, (24, paths))).ravel()
        for cover, starts in ((nested, np.repeat(np.arange(24), paths)), (flat, None)):
            interval = decide(logs, starts=starts, resamples=299).intervals.sel(quantity="feedback", confidence=0.95)
            cover.append(float(interval.sel(bound="low")) < 1 < float(interval.sel(bound="high")))
    assert np.mean(nested) == pytest.approx(0.94, abs=0.05)
    if paths > 1:
        assert np.mean(flat) < 0.75


def test_the_calibration_slope_covers_the_truth():
    """Vectors of 8 paths per start: delta = 1.1 N* + noise, N* = a part that x_T predicts + noise; nominal 95%."""
    rng, cover, values = np.random.default_rng(6), [], []
    for _ in range(150):
        own = rng.normal(size=(24, 1, 16)) + rng.normal(size=(24, 8, 16))
        delta = 1.1 * own + rng.normal(size=own.shape)
        others = own.sum(1, keepdims=True) - own
        gram = np.stack([(each * others).sum(-1).ravel() for each in (delta, own)])
        starts = np.repeat(np.arange(24), 8)
        answers = decide(np.zeros(192), np.zeros(192), gram=gram, starts=starts, resamples=499)
        low, value, high = answers.intervals.sel(quantity="calibration", confidence=0.95).values
        cover.append(low < 1.1 < high)
        values.append(value)
    assert np.mean(cover) == pytest.approx(0.94, abs=0.05)
    assert np.mean(values) == pytest.approx(1.1, abs=0.01)
