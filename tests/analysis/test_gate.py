"""The gate: series against loops and closed forms, limits against scipy's tests, answers where the truth is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import analysis
from analysis.gating.decide import QUALITY_ALONE, SAME_PICTURE, SAME_QUALITY, UNDECIDED, WORSE, decide
from analysis.gating.evidence import Evidence, of_distance, of_pairs, of_scores, of_sets, ratio_interval, spread
from analysis.gating.margins import FEWEST, GateError
from benchmarks.gate_rates import POPULATIONS, rates
from interventions.errors import RunError
from tests.builders.gated import DISTANCE, SCORE, SET, gated_run


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- series ---


def test_pseudo_values_are_those_of_a_jackknife_written_as_a_loop(rng):
    values = rng.normal(size=9)
    whole, without = values.std(ddof=1), [np.delete(values, k).std(ddof=1) for k in range(9)]
    assert spread(values) == pytest.approx(9 * whole - 8 * np.array(without))
    h = rng.normal(size=(7, 7))
    h += h.T

    def mean_of_pairs(matrix):
        return np.mean([matrix[i, j] for i in range(len(matrix)) for j in range(len(matrix)) if i != j])

    without = [mean_of_pairs(np.delete(np.delete(h, k, 0), k, 1)) for k in range(7)]
    assert of_pairs(h) == pytest.approx(7 * mean_of_pairs(h) - 6 * np.array(without))
    assert of_pairs(h).mean() == pytest.approx(mean_of_pairs(h))


def test_at_the_limits_of_a_loss_scipys_test_of_the_margin_is_just_on_its_level(rng):
    unit = rng.lognormal(0, 0.3, 20)
    loss = 0.3 * unit + rng.normal(0, 0.2, 20)
    for limit, side in zip(ratio_interval(loss, unit, 0.9), ("greater", "less"), strict=True):
        assert stats.ttest_1samp(loss - limit * unit, 0, alternative=side).pvalue == pytest.approx(0.05)


def test_of_a_unit_without_spread_the_limits_are_students(rng):
    loss = rng.normal(size=15)
    expected = stats.t.interval(0.9, 14, loss.mean() / 2, stats.sem(loss) / 2)
    assert ratio_interval(loss, np.full(15, 2.0), 0.9) == pytest.approx(expected)


def test_a_share_has_bonett_and_prices_limits_and_no_certainty_of_none():
    """24 pairs of which none differs: with one loss and one gain added, the sd is that of 26 values, two of them 1."""
    same = of_scores("judge", np.ones(24), np.ones(24))
    reach = stats.t.ppf(0.95, 25) * math.sqrt(2 / 25 / 26)
    assert (same.kind, same.estimate, same.samples) == ("share", 0, 24)
    assert same.interval() == (pytest.approx(-reach), pytest.approx(reach))
    lost = of_scores("judge", np.ones(24), np.r_[np.zeros(6), np.ones(18)])
    assert (lost.estimate, lost.clean, lost.value) == (6 / 24, 1, 0.75)
    assert np.mean(lost.interval()) == pytest.approx(6 / 26)


def test_scores_lose_parts_of_the_clean_standard_deviation_whichever_way_is_good(rng):
    clean = rng.normal(3, 2, 40)
    for sign, higher in ((1, True), (-1, False)):
        found = of_scores("score", sign * clean, sign * (clean - 1), higher=higher)
        assert found.estimate == pytest.approx(1 / clean.std(ddof=1), rel=0.02)  # its bias corrected


def test_sets_are_apart_by_the_squared_distance_of_their_means_over_the_clean_variance(rng):
    """Small angles, where the wide kernel is linear: |mean x - mean y|^2 less its own variance, over the variance."""
    features = np.hstack([0.02 * rng.normal(size=(60, 8)), np.ones((60, 1))])
    arm = np.hstack([0.02 * rng.normal(size=(60, 8)) + 0.01, np.ones((60, 1))])
    x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (features, arm))
    own = ((x - y).mean(0) ** 2).sum() - (x - y).var(0, ddof=1).sum() / 60
    assert of_sets("mmd", x, y).estimate == pytest.approx(own / x.var(0, ddof=1).sum(), rel=1e-3)
    assert of_sets("mmd", x, x).estimate == 0


# --- answers ---


def series(kind, mean, *, n=24, sd=0.01, margin=1.0, seed=0):
    """Evidence whose loss has exactly this mean and standard deviation, in units of 1."""
    drawn = np.random.default_rng(seed).normal(size=n)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1)
    return Evidence(kind, kind, mean + sd * drawn, np.ones(n), margin, n)


def answer(*evidence, **told):
    return decide({"arm": evidence}, {"arm": told.get("diverged", 0)})["arm"]


@pytest.mark.parametrize(
    ("picture", "quality", "expected", "meets"),
    [
        (0.5, 0.5, SAME_PICTURE, (True, True)),
        (2, 0.5, SAME_QUALITY, (True, False)),
        (1, 0.5, QUALITY_ALONE, (True, None)),
        (2, 2, WORSE, (False, False)),
        (0.5, 2, WORSE, (False, False)),  # a small change of the picture may still be one for the worse
        (0.5, 1, SAME_PICTURE, (True, True)),
        (2, 1, UNDECIDED, (None, False)),
        (1, 1, UNDECIDED, (None, None)),
        (2, -2, SAME_QUALITY, (True, False)),  # better
    ],
)
def test_the_answer_is_of_the_picture_and_of_quality_and_worse_comes_first(picture, quality, expected, meets):
    found = answer(series("picture", picture), series("score", quality))
    assert found.answer == expected
    assert (found.meets("same-quality"), found.meets("same-picture")) == meets


def test_every_metric_must_be_inside_and_any_may_be_beyond():
    good, bad, open_ = (series("score", mean) for mean in (0.5, 2, 1))
    assert answer(good, series("set", 0.5)).quality == "same"
    assert answer(good, open_).quality is None
    assert answer(good, open_, bad).quality == "worse"
    assert answer().answer == answer(series("picture", 2)).answer == UNDECIDED  # nothing says how good it is


def test_answers_are_corrected_for_the_number_of_arms():
    """A p of .03 stands alone and not among ten arms, in either direction; the others are sure of theirs."""
    t = stats.t.isf(0.03, 23)
    for way, expected in ((-1, "same"), (1, "worse")):
        edge = series("score", 1 + way * t * 0.01 / math.sqrt(24))
        sure = {f"arm {k}": [series("score", 1.0, seed=k)] for k in range(9)}
        assert decide({"edge": [edge]})["edge"].quality == expected
        assert decide({"edge": [edge], **sure})["edge"].quality is None


def test_diverged_samples_withhold_every_answer_but_worse():
    same = series("picture", 0.1)
    assert answer(same, series("score", 0.1), diverged=1).answer == UNDECIDED
    assert answer(same, series("score", 2), diverged=1).answer == WORSE


def test_too_few_samples_claim_nothing():
    for n, expected in ((FEWEST - 1, UNDECIDED), (FEWEST, SAME_PICTURE)):
        assert answer(series("picture", 0.1, n=n)).answer == expected


def test_with_the_samples_that_are_asked_for_nine_studies_of_ten_decide(rng):
    """A loss of half the margin with sd 2: the number asked for, then 2000 studies of that many."""
    seen = series("score", 0.5, sd=2)
    n = answer(seen).needed("same-quality")
    studies = 0.5 + 2 * rng.normal(size=(2000, n))
    assert (stats.ttest_1samp(studies, 1, axis=1, alternative="less").pvalue < 0.05).mean() == pytest.approx(
        0.9, abs=0.02
    )


@pytest.mark.parametrize(
    ("name", "n", "least", "most"),
    [
        ("equal but for rounding, all four metrics", 12, 1, 0),
        ("other picture, same quality: set", 48, 0.75, 0.05),
        ("score lower by 4 margins", 24, 0.85, 0),
        ("share lower by 4 margins", 48, 0.85, 0),
        ("set apart by 4 margins", 24, 0.9, 0),
        ("score", 24, 0, 0.13),
        ("distance, sd of its logarithm .5", 24, 0, 0.13),
    ],
)
def test_rates_over_repeated_studies(name, n, least, most):
    """60 studies of benchmarks/gate_rates.md again: right answers at least, and false ones at most, in these shares.

    On a margin, where 5% are nominal on either side, the first number is of "all is well".
    """
    (population,) = [each for each in POPULATIONS if each.name == name]
    found = rates(population, n=n, studies=60)
    right, false = (found.first, found.second) if not population.on_margin else (60, found.first)
    assert right >= least * 60
    assert false <= most * 60
    assert population.on_margin or false <= most * 60


# --- runs ---


def small_run(rng, *, drop=0.0, distance=0.01, samples=24, **told):
    clean, noise = rng.normal(size=samples), rng.normal(size=samples)
    apart = np.stack([0 * noise, distance * (1 + 0.1 * noise), 0 * noise])
    scores = np.stack([clean, clean - drop + 0.01 * noise, clean])
    groups = {
        "pixels": (DISTANCE, apart, 1 + 0.1 * rng.random(samples)),
        "clip-t": (SCORE, scores, None),
    }
    return gated_run(groups, samples=samples, **told)


def test_a_run_is_judged_by_its_scores_and_told_in_text_markdown_and_json(rng):
    errors = np.stack([np.zeros(24), np.full(24, 0.4), np.full(24, 1e-5)])
    found = analysis.gate(small_run(rng, errors=errors))
    (row,) = found.rows
    assert (row.arm, row.judged.answer, row.samples, found.passed) == ("R4S0", SAME_PICTURE, 24, True)
    assert row.above_floor == pytest.approx((4e4,) * 3)
    assert "exceeds what rounding alone does by 4e+04 times" in str(found)
    table = found.markdown().splitlines()
    assert table[0] == "**trace gate passed: the arm is at least of the same quality**"
    cells = [cell.strip() for cell in table[4].strip("|").split("|")]
    assert cells[:2] == ["`R4S0`", "**same picture**"]
    assert cells[4:] == ["4e+04 times", "24"]
    assert len({line.count("|") for line in table[2:5]}) == 1
    data = json.loads(json.dumps(found.data()))
    assert data["arms"][0]["evidence"][0]["loss"] == pytest.approx(0.01, rel=0.1)
    assert found.table()["metric"].tolist() == ["pixels", "clip-t"]


def test_an_error_of_less_than_100_floors_is_rounding_and_none_at_all_is_equality(rng):
    for error, told in ((5e-5, "indistinguishable from rounding: at most 5 times"), (0, "equal to clean bit for bit")):
        errors = np.stack([np.zeros(24), np.full(24, error), np.full(24, 1e-5)])
        assert told in str(analysis.gate(small_run(rng, errors=errors)))
    above = np.stack([np.zeros(24), np.r_[np.full(23, 5e-5), 2e-3], np.full(24, 1e-5)])
    assert "exceeds what rounding alone does by 5 times" in str(analysis.gate(small_run(rng, errors=above)))


def test_a_loss_fails_the_gate_and_an_open_one_says_how_many_samples_it_takes(rng):
    worse = analysis.gate(small_run(rng, drop=1, distance=1))
    assert (worse.passed, worse.rows[0].judged.answer) == (False, WORSE)
    assert "R4S0: worse by clip-t" in str(worse)
    assert str(worse).endswith("gate failed: R4S0 is worse")
    run = small_run(rng, distance=1)
    noisy = run["scores/clip-t"].to_dataset()
    noisy["score"][1] = noisy["score"][0] + rng.normal(size=24)
    run["scores/clip-t"] = noisy
    open_ = analysis.gate(run)
    assert open_.passed is None
    assert "R4S0: undecided, clip-t across the margin; about" in str(open_)
    assert analysis.gate(run, require="same-picture").passed is False
    assert analysis.gate(run, margins={"score": 3}).passed is True


def test_few_samples_say_how_many_there_must_be(rng):
    told = str(analysis.gate(small_run(rng, samples=6)))
    assert "R4S0: undecided, 6 samples are too few: nothing is claimed below 8" in told


def test_samples_that_diverged_are_counted_and_where_all_did_the_arm_is_worse(rng):
    flags = np.ones((3, 24))
    flags[2, 4:] = 3
    flags[1, 0] = 2
    one = analysis.gate(small_run(rng, status=flags))
    assert "R4S0: undecided, 1 sample diverged, so that no good answer is given" in str(one)
    assert "finished: 96% of the samples" in str(one)
    flags[1] = 2
    every = analysis.gate(small_run(rng, status=flags))
    assert (every.passed, every.rows[0].judged.diverged) == (False, 24)
    assert "R4S0: worse, 24 samples diverged" in str(every)


def test_noise_paths_of_a_start_are_one_sample(rng):
    run = small_run(rng, seeds=np.repeat(np.arange(8), 3))
    (row,) = analysis.gate(run).rows
    values = run["scores/pixels"]["score"].values[1].reshape(8, 3).mean(1)
    assert row.samples == 8
    assert row.judged.tested[0].evidence.loss == pytest.approx(values)


def test_several_runs_are_judged_each_by_itself(rng):
    found = analysis.gate({"a": small_run(rng), "b": small_run(rng, drop=1)})
    assert [(row.run, row.judged.answer) for row in found.rows] == [("a", SAME_PICTURE), ("b", WORSE)]
    assert "gate failed: b R4S0 is worse" in str(found)


def test_one_distance_counts_and_metrics_that_are_named_alone(rng):
    run = small_run(rng)
    lpips = run["scores/pixels"].to_dataset()
    lpips["score"][1] = 2.0
    features = rng.normal(size=(3, 24, 5))
    features[1:] = features[0]
    run["scores/lpips"] = lpips.assign_attrs(name="lpips")
    run["scores/fid"] = gated_run({"fid": (SET | {"distance": "frechet"}, features, None)})["scores/fid"].to_dataset()

    def used(**asked):
        return [each.evidence.metric for each in analysis.gate(run, **asked).rows[0].judged.tested]

    assert used() == ["lpips", "clip-t"]  # a distance without limits is no evidence
    assert used(distance="pixels") == ["pixels", "clip-t"]
    assert used(metrics=["clip-t"]) == ["clip-t", "lpips"]
    assert used(metrics=["pixels"]) == ["pixels"]


def test_what_there_is_not_is_refused_with_what_there_is(rng):
    run = small_run(rng)
    for asked, told in (
        ({"arms": ["R4S1"]}, "no arm 'R4S1' in run: did you mean R4S0"),
        ({"require": "same"}, "no requirement 'same'"),
        ({"margins": {"pictures": 1}}, "no margin 'pictures': did you mean picture"),
        ({"margins": {"picture": 0}}, "give a number above 0"),
        ({"distance": "lpips"}, "no distance 'lpips' to clean is scored"),
    ):
        with pytest.raises(GateError, match=told):
            analysis.gate(run, **asked)
    with pytest.raises(RunError, match="not scored yet"):
        analysis.gate(gated_run({}))
    with pytest.raises(RunError, match="no distance between unrelated clean pictures"):
        analysis.gate(gated_run({"pixels": (DISTANCE, np.zeros((3, 24)), None)}))
    with pytest.raises(GateError, match="nothing to judge"):
        analysis.gate(gated_run({}, arms=("clean", "full")))


def test_evidence_of_a_better_arm_passes_and_says_so(rng):
    found = analysis.gate(small_run(rng, drop=-1, distance=1))
    assert found.passed
    assert "same quality, other picture, better by clip-t" in str(found)
    assert "clip-t: higher by" in str(found)


def test_a_distance_is_held_against_that_of_unrelated_pictures(rng):
    unit = 2 + 0.1 * rng.random(24)
    for share, shown in ((0.05, "same"), (0.2, "other")):
        evidence = of_distance("lpips", share * unit, unit)
        assert evidence.estimate == pytest.approx(share)
        assert answer(replace(evidence)).picture == shown
