"""A over the number of steps: A by its definition, pairing, exclusions, and the study's slope and figure."""

import numpy as np
import pytest

from analysis import steps
from analysis.answer import amplification as amp
from analysis.answer import rule
from analysis.common import runs
from tests.builders.recorded import recorded
from tests.builders.synthetic import gaussian_run
from tests.ground_truth import constructed


def norm(field):
    return np.sqrt((np.asarray(field, dtype=np.float64) ** 2).sum(axis=(-3, -2, -1)))


def test_amplification_is_the_final_error_over_the_summed_null():
    """By hand: |delta| = 2 exp(log A), |null sum| = 2, sum |null| = 4, sum |injected| = 5."""
    log_a = np.array([0.3, -0.2, 1.0])
    found = amp.amplification(recorded({"R4S32": log_a}, steps=10)).sel(arm="R4S32")
    np.testing.assert_allclose(found["log_amplification"], log_a, rtol=1e-12)
    np.testing.assert_allclose(found["null_sum"], 2)
    np.testing.assert_allclose(found["coherence"], 0.5)
    np.testing.assert_allclose(found["injected_path"], 5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_an_additive_gaussian_system_has_amplification_one(sampler):
    """A mask that shifts every x0-prediction by the same amount feeds nothing back: A = 1 for a linear clean map."""
    run = gaussian_run({"R4S32": {"scale": 1.0, "shift": 0.05}}, sampler=sampler, steps=40, samples=24)
    found = amp.amplification(run)
    np.testing.assert_allclose(np.exp(found["log_amplification"]), 1.0, atol=2e-3 if sampler == "ddpm" else 0.05)


def test_samples_below_a_hundred_floors_are_left_out():
    run = recorded({"R4S32": np.log([0.049, 0.051, 1.0])}, floor=0.001)  # |delta| .098, .102, 2 against 100 x .001
    found = amp.amplification(run).sel(arm="R4S32")
    assert found["kept"].values.tolist() == [False, True, True]
    assert np.isnan(found["log_amplification"]).values.tolist() == [True, False, False]


def test_incomplete_samples_are_not_used():
    status = np.ones((2, 3), np.int8)
    status[1, 0] = 0
    assert amp.amplification(recorded({"R4S32": np.zeros(3)}, status=status))["pair"].values.tolist() == ["1", "2"]


def test_a_run_without_the_null_says_what_to_record():
    with pytest.raises(runs.RunError, match="--record decomposition,null"):
        amp.amplification(recorded({"R4S32": np.zeros(3)}, kept_null=False))


def test_impulses_of_a_linear_system_sum_to_the_whole():
    """S = 1 exactly where masked and clean map are affine with the same slope (shift only)."""
    mask = {"scale": 1.0, "shift": 0.05}
    windows = {f"R4S32@steps={k}:{k + 1}": mask | {"window": range(k, k + 1)} for k in range(8)}
    run = gaussian_run({"R4S32": mask} | windows, steps=8, samples=4, floor=False)
    total = amp.impulse_sums(run)["R4S32"]
    whole = norm(run["trajectory"]["delta"].sel(arm="R4S32").isel(step=-1))
    np.testing.assert_allclose(total, whole, rtol=1e-10)


def test_impulses_that_leave_out_a_step_are_not_summed():
    windows = {f"R4S32@steps={k}:{k + 1}": np.zeros(3) for k in range(9)}
    assert amp.impulse_sums(recorded(windows, steps=10)) == {}


def study(counts=(50, 100, 250), samples=12, gain=1.01, **options):
    """Runs by hand whose log A is that of the constructed system of iterated gain."""
    found = [constructed.iterate(gain, gain, 0.3, n, samples, 0).log_amplification for n in counts]
    return [recorded({"R4S32": log_a}, steps=n, **options) for n, log_a in zip(counts, found, strict=True)], found


def test_the_slope_of_a_study_is_that_of_the_known_system():
    several, log_a = study()
    found = steps(several)
    expected = np.polyfit(np.log([50, 100, 250]), np.array(log_a), 1)[0]
    np.testing.assert_allclose(found["step_slope"].sel(arm="R4S32"), expected, rtol=1e-10)
    assert float(found["step_slope_interval"].sel(arm="R4S32", bound="estimate")) == pytest.approx(expected.mean())
    np.testing.assert_allclose(
        found["log_amplification_interval"].sel(arm="R4S32", bound="estimate"),
        [values.mean() for values in log_a],
        rtol=1e-10,
    )
    assert steps.table(found)["A"].tolist() == pytest.approx([np.exp(values.mean()) for values in log_a])


def test_runs_may_come_in_any_order_and_as_a_dict():
    several, _ = study()
    mixed = steps({"b": several[2], "a": several[0], "c": several[1]})
    np.testing.assert_array_equal(mixed["steps"], [50, 100, 250])
    np.testing.assert_array_equal(mixed["step_slope"], steps(several)["step_slope"])


def test_runs_read_lazily_give_the_same():
    several, _ = study()
    lazy = [run.chunk({"sample": 4}) for run in several]
    assert steps.table(steps(lazy)).equals(steps.table(steps(several)))


def test_samples_are_paired_by_seed_and_not_by_position():
    log_a = np.array([0.1, 0.2, 0.3, 0.4])
    first = recorded({"R4S32": log_a}, steps=50, seeds=[7, 8, 9, 10])
    second = recorded({"R4S32": (log_a + 0.5)[[2, 1, 3]]}, steps=100, seeds=[9, 8, 10])
    found = steps([first, second])
    assert sorted(found["pair"].values.tolist()) == ["10", "8", "9"]
    np.testing.assert_allclose(found["step_slope"], 0.5 / np.log(2), rtol=1e-10)
    assert found.attrs["unpaired"] == 1


def test_a_sample_missing_at_one_count_has_no_slope():
    first = recorded({"R4S32": np.log([1, 1, 1, 1e-4])}, steps=50, floor=0.001)
    second = recorded({"R4S32": np.zeros(4)}, steps=100, floor=0.001)
    assert np.isnan(steps([first, second])["step_slope"]).sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 50}, "same number of steps"),
        ({"steps": 100, "guidance": 4.0}, "differ in guidance"),
        ({"steps": 100, "model": "sd3"}, "differ in model"),
        ({"steps": 100, "seeds": [10, 11, 12]}, "share no arm or no sample"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change, message):
    with pytest.raises(runs.RunError, match=message):
        steps([recorded({"R4S32": np.zeros(3)}, steps=50), recorded({"R4S32": np.zeros(3)}, **change)])


def test_one_number_of_steps_is_no_study_and_says_what_to_type():
    with pytest.raises(runs.RunError, match=r"--steps N --record decomposition,null.*trace analyze steps RUN RUN"):
        steps(recorded({"R4S32": np.zeros(3)}))


def test_the_sentence_and_the_figure_tell_every_arm():
    several = [
        recorded({"R4S32": np.full(6, 0.1 * i), "K64": np.linspace(-0.2, 0.2, 6)}, steps=50 * (i + 1)) for i in range(3)
    ]
    found = steps(several)
    text = steps.sentence(found)
    assert "R4S32: A 1 to 1.22" in text
    assert "n = 6" in text
    assert str(rule.SLOPE_MARGIN) in text
    left, right = steps.figure(found).axes
    assert {line.get_label() for line in left.get_lines()} >= {"R4S32", "K64"}
    assert [label.get_text() for label in right.get_yticklabels()] == ["R4S32", "K64"]


def test_a_wide_spread_of_a_leaves_the_axis_positive_and_every_sample_in_view():
    """Samples from 0.1 to 30: limits found on a linear axis would reach below 0 and break the logarithmic one."""
    log_a = np.log([0.1, 1.0, 2.0, 30.0])
    found = steps([recorded({"R4S32": log_a}, steps=count) for count in (50, 100)])
    low, high = steps.figure(found).axes[0].get_ylim()
    assert 0 < low < 0.1
    assert high > 30
