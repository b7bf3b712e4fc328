"""Error beside cost on runs whose costs, errors and frontier are known, and on runs made to fool it."""

import json

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.common import costs, runs
from analysis.measures import tradeoff_control as control
from analysis.measures.tradeoff import frontier
from interventions.errors import RunError
from tests.builders.blown_up import blown_up
from tests.builders.costed import costed

STARTS = np.exp(np.random.default_rng(0).normal(0, 0.5, 16))
SCATTER = np.exp(np.random.default_rng(1).normal(0, 0.05, 16))
EVERY_SECOND = [1, 0] * 5
CONTROLS = {"steps4": {"error": 0.4 * STARTS, "cost": 0.4}, "steps7": {"error": 0.1 * STARTS, "cost": 0.7}}
FEWER = tuple(CONTROLS)
AT_HALF = 0.4 ** (1 - np.log(0.5 / 0.4) / np.log(0.7 / 0.4)) * 0.1 ** (np.log(0.5 / 0.4) / np.log(0.7 / 0.4))
"""The control's error at half the cost, on the straight line between its two points in logarithms."""


def beside(factor: float, **arm) -> xr.Dataset:
    """A cache at half the cost whose error is `factor` times the control's there."""
    arms = {"cache2": {"error": factor * AT_HALF * STARTS * SCATTER, "cost": EVERY_SECOND} | arm, **CONTROLS}
    return analysis.tradeoff(costed(arms, fewer=FEWER))


# --- costs ---


def test_costs_are_shares_of_the_clean_ones():
    """Half of the steps computed; seconds .9 and .1 of clean; 52% of the multiply-adds: by hand."""
    run = costed({"cache2": {"error": 1, "cost": EVERY_SECOND, "time": [0.9, 0.1] * 5, "arithmetic": 0.52}})
    found = costs.of_arms(run)
    np.testing.assert_allclose(found["cost"].sel(arm="cache2", bound="estimate"), [0.5, 0.5, 0.52])
    np.testing.assert_allclose(found["cost"].sel(arm="clean"), 1)
    assert costs.in_words(found, "cache2") == (
        "cache2: 0.50 of the clean evaluations, 0.50 of its time (10 calls), 0.52 of its multiply-adds"
    )


def test_time_is_the_median_of_each_kind_of_step_so_that_a_pause_of_the_machine_does_not_count():
    seconds = np.tile([0.9, 0.1], 5)
    seconds[3] = 100.0  # a reusing step during which the machine did something else
    found = costs.of_arms(costed({"cache2": {"error": 1, "cost": EVERY_SECOND, "time": seconds}}))
    assert float(found["cost"].sel(arm="cache2", kind="time", bound="estimate")) == pytest.approx(0.5)
    assert float(found["cost"].sel(arm="cache2", kind="time", bound="high")) > 1  # but it is in the interval


def test_what_is_not_known_in_every_step_is_missing():
    half = np.where(np.arange(10) < 5, 1.0, np.nan)
    found = costs.of_arms(costed({"mine": {"error": 1, "cost": half, "time": half, "arithmetic": half}}))
    assert np.isnan(found["cost"].sel(arm="mine")).all()
    assert costs.in_words(found, "mine") == "mine: unknown"


def test_costs_of_failed_samples_are_those_of_the_others():
    arm = {"error": 1, "cost": EVERY_SECOND, "time": [0.9, 0.1] * 5, "arithmetic": 0.52}
    run = costed({"cache2": arm})
    wild = costs.of_arms(blown_up(run, {"cache2": [0, 3]}, step=2))
    np.testing.assert_array_equal(wild["cost"], costs.of_arms(run)["cost"])


# --- frontier ---


def test_the_frontier_is_what_no_other_arm_beats_in_both():
    cost = np.array([0.3, 0.5, 0.5, 0.6, 0.9, 1.0, 0.2])
    error = np.array([0.9, 0.4, 0.5, 0.4, 0.1, 0.01, np.nan])
    expected = [True, True, False, False, True, False, False]  # at the clean cost the clean arm itself is better
    assert frontier(cost, error).tolist() == expected


def test_two_arms_alike_are_both_on_the_frontier():
    assert frontier(np.array([0.5, 0.5]), np.array([0.1, 0.1])).all()


# --- beside fewer steps ---


@pytest.mark.parametrize(
    ("factor", "answer"), [(0.5, "better"), (2.0, "worse"), (1.0, "equal"), (1.1, "undecided"), (1 / 1.1, "undecided")]
)
def test_the_ratio_is_known_and_judged_by_its_margin(factor, answer):
    found = beside(factor).sel(arm="cache2")
    expected = factor * np.exp(np.log(SCATTER).mean())
    assert float(found["ratio"].sel(bound="estimate")) == pytest.approx(expected, rel=1e-9)
    assert found["answer"].item() == answer


def test_what_is_paired_by_sample_is_judged_by_the_ratio_and_not_by_two_wide_intervals():
    """Errors of samples differ by a factor of 3, ratios by 5%: the intervals of the errors overlap, that of the ratio
    does not reach 1."""
    found = beside(0.85)
    own, there = found["error"].sel(arm="cache2"), found["control_error"].sel(arm="cache2")
    assert float(own.sel(bound="high")) > float(there)
    assert found["answer"].sel(arm="cache2").item() == "better"


def test_nothing_is_extrapolated():
    arms = {"cheap": {"error": 0.1, "cost": 0.2}, "dear": {"error": 0.001, "cost": 0.9}, **CONTROLS}
    found = analysis.tradeoff(costed(arms, fewer=FEWER))
    assert found["answer"].sel(arm=["cheap", "dear"]).values.tolist() == ["no control at this cost"] * 2
    assert np.isnan(found["ratio"].sel(arm=["cheap", "dear"])).all()


def test_at_exactly_the_cost_of_a_control_nothing_is_interpolated():
    arms = {"cache": {"error": 0.05 * STARTS, "cost": 0.7}, **CONTROLS}
    found = analysis.tradeoff(costed(arms, fewer=FEWER)).sel(arm="cache")
    np.testing.assert_allclose(found["ratio"], 0.5, rtol=1e-12)
    assert found["answer"].item() == "better"


def test_controls_that_cross_are_read_between_the_two_neighbours_alone():
    """More steps with a larger error, a control that is not monotone: at .6 of the cost between .3 and .9."""
    points = {"steps4": (0.4, 0.3), "steps5": (0.5, 0.3), "steps7": (0.7, 0.9), "steps8": (0.8, 0.1)}
    arms = {name: {"error": error, "cost": cost} for name, (cost, error) in points.items()}
    found = analysis.tradeoff(costed({"cache": {"error": 0.3, "cost": 0.6}, **arms}, fewer=tuple(arms)))
    share = np.log(0.6 / 0.5) / np.log(0.7 / 0.5)
    assert float(found["control_error"].sel(arm="cache")) == pytest.approx(0.3 ** (1 - share) * 0.9**share)


def test_a_control_without_any_error_is_not_beaten():
    arms = {"cache": {"error": 0.05, "cost": 0.7}, "steps7": {"error": 0.0, "cost": 0.7}}
    found = analysis.tradeoff(costed(arms, fewer=("steps7",))).sel(arm="cache")
    assert found["answer"].item() == "worse"
    between = {"cache": {"error": 0.05, "cost": 0.6}, "steps4": {"error": 0.1, "cost": 0.4}, "steps7": arms["steps7"]}
    found = analysis.tradeoff(costed(between, fewer=FEWER)).sel(arm="cache")
    assert found["answer"].item() == "no control at this cost"  # a zero has no logarithm to interpolate


def test_an_arm_without_any_error_is_better_and_says_so():
    found = beside(1.0, error=0.0)
    assert found["answer"].sel(arm="cache2").item() == "better"
    assert (found["error"].sel(arm="cache2") == 0).all()
    assert "no error at all" in analysis.tradeoff.sentence(found)
    analysis.tradeoff.figure(found)


def test_samples_without_error_do_not_make_an_answer_that_they_would_weaken():
    """The control is exact in two samples, which cannot be part of a ratio: not better, whatever the others say."""
    exact = 0.1 * STARTS
    exact[:2] = 0.0
    arms = {"cache": {"error": 0.01 * STARTS, "cost": 0.7}, "steps7": {"error": exact, "cost": 0.7}}
    found = analysis.tradeoff(costed(arms, fewer=("steps7",))).sel(arm="cache")
    assert found["answer"].item() == "undecided"
    assert found["why"].item() == "withheld, by the samples that are left better"


def test_an_arm_that_lost_samples_is_not_better_by_those_that_are_left():
    arms = {"cache2": {"error": 0.5 * AT_HALF * STARTS, "cost": EVERY_SECOND}, **CONTROLS}
    run = costed(arms, fewer=FEWER)
    lost = analysis.tradeoff(blown_up(run, {"cache2": [1, 4]}, step=3))
    assert lost["answer"].sel(arm="cache2").item() == "undecided"
    assert lost.attrs["samples"] == 14
    assert "2 of 16 samples diverged (cache2 from step 3)" in analysis.tradeoff.sentence(lost)
    assert (analysis.tradeoff.table(lost)["diverged"] == 2).any()
    others = analysis.tradeoff(blown_up(run, {"steps4": [1]}, step=3))
    assert others["answer"].sel(arm="cache2").item() == "better"  # the control is the one that lost
    gone = analysis.tradeoff(blown_up(run, {"cache2": range(16)}, step=3))
    assert gone["arm"].values.tolist() == list(FEWER)


def test_holm_is_over_the_arms_and_not_over_the_controls():
    arms = {f"cache{k}": {"error": 0.5 * AT_HALF * STARTS * SCATTER, "cost": EVERY_SECOND} for k in range(4)}
    found = analysis.tradeoff(costed(arms | CONTROLS, fewer=FEWER))
    np.testing.assert_allclose(found["p_holm"][:4], 4 * found["p"][:4])
    assert np.isnan(found["p_holm"][4:]).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_too_few_samples_are_shown_and_not_judged(samples):
    arms = {"cache": {"error": 0.01, "cost": 0.7}, "steps7": {"error": 0.1, "cost": 0.7}}
    found = analysis.tradeoff(costed(arms, fewer=("steps7",), samples=samples))
    assert found["answer"].sel(arm="cache").item() == "undecided"
    assert float(found["error"].sel(arm="cache", bound="estimate")) == pytest.approx(0.01)
    analysis.tradeoff.figure(found)
    analysis.tradeoff.sentence(found)


def test_noise_paths_of_a_start_are_one_unit():
    """16 samples of 4 starts: the interval is that of the four means of logarithms."""
    run = costed({"cache": {"error": STARTS, "cost": 0.5}}, paths=4)
    found = analysis.tradeoff(run)
    assert found.attrs["starts"] == 4
    four = np.exp(np.log(STARTS).reshape(4, 4).mean(axis=1))
    alone = analysis.tradeoff(costed({"cache": {"error": four, "cost": 0.5}}, samples=4))
    np.testing.assert_allclose(found["error"], alone["error"], rtol=1e-12)


# --- which cost, systematic errors, scores ---


def test_the_cost_is_the_first_kind_that_every_arm_has_or_the_one_asked_for():
    known = {"error": 0.1, "cost": 0.5, "time": 0.6, "arithmetic": 0.7}
    run = costed({"cache": known, "mine": known | {"cost": np.nan}})
    assert analysis.tradeoff(run).attrs["cost"] == "time"
    assert analysis.tradeoff(run, "arithmetic")["cost"].sel(arm="mine", bound="estimate") == 0.7
    assert np.isnan(analysis.tradeoff(run, "evaluations")["cost"].sel(arm="mine")).all()
    with pytest.raises(RunError, match=r"--cost time: measured time are known of no arm.*evaluations are"):
        analysis.tradeoff(costed({"cache": {"error": 0.1, "cost": 0.5}}), "time")


def test_systematic_errors_have_a_frontier_of_their_own():
    arms = {
        "cache": {"error": 0.3, "cost": 0.5, "systematic": 0.2},
        "other": {"error": 0.2, "cost": 0.5, "systematic": 0.25},
    }
    found = analysis.tradeoff(costed(arms, sampler="ddpm"))
    np.testing.assert_allclose(found["systematic"].sel(bound="estimate"), [0.2, 0.25])
    assert found["frontier"].values.tolist() == [False, True]
    assert found["systematic_frontier"].values.tolist() == [True, False]
    assert "By the systematic part of the error: cache." in analysis.tradeoff.sentence(found)
    assert len(analysis.tradeoff.figure(found).axes) == 2


def test_a_run_without_costs_says_what_records_them():
    run = costed({"cache": {"error": 0.1, "cost": 0.5}})
    del run["cost"]
    with pytest.raises(RunError, match=r"holds no costs.*--record cost"):
        analysis.tradeoff(run)


# --- fewer steps in runs of their own ---


def fewer_steps(first, error: np.ndarray | float, steps: int, **options):
    """A run of fewer steps whose clean final states lie `error` (relative) from those of the first."""
    clean = runs.clean_final(first).values.ravel()
    return costed({}, steps=steps, finals=clean * (1 + np.asarray(error)), samples=len(clean), **options)


def test_a_run_with_fewer_steps_is_the_control_of_one_without():
    """5 of 10 steps, error .2 sample by sample: the cache's .1 is half of it at the same cost."""
    first = costed({"cache2": {"error": 0.1, "cost": EVERY_SECOND}})
    found = analysis.tradeoff([first, fewer_steps(first, 0.2, 5)])
    assert found["arm"].values.tolist() == ["cache2", "clean, 5 steps"]
    assert float(found["cost"].sel(arm="clean, 5 steps", bound="estimate")) == 0.5
    np.testing.assert_allclose(found["ratio"].sel(arm="cache2"), 0.5, rtol=1e-9)
    assert found["answer"].sel(arm="cache2").item() == "better"
    assert json.loads(json.dumps(found.attrs))["samples"] == 16


def test_runs_that_are_no_control_are_refused():
    first = costed({"cache2": {"error": 0.1, "cost": EVERY_SECOND}})
    with pytest.raises(RunError, match="a run of 10 steps is no control of one of 10"):
        analysis.tradeoff([first, fewer_steps(first, 0.2, 10)])
    noisy = costed({"cache2": {"error": 0.1, "cost": EVERY_SECOND}}, sampler="ddpm")
    with pytest.raises(RunError, match=r"draws noise.*--noise coupled.*--arm steps5"):
        analysis.tradeoff([noisy, fewer_steps(noisy, 0.2, 5, sampler="ddpm")])
    with pytest.raises(RunError, match="differ in model"):
        analysis.tradeoff([first, fewer_steps(first, 0.2, 5, model="another")])


def test_the_margin_and_the_answers_are_symmetric():
    """An arm and its control with exchanged places have exchanged answers."""
    own, there = 0.5 * STARTS, STARTS * SCATTER
    one = control.beside(own, there, diverged=(0, 0))
    other = control.beside(there, own, diverged=(0, 0))
    assert (one.answer, other.answer) == ("better", "worse")
    assert one.ratio[1] == pytest.approx(1 / other.ratio[1])
