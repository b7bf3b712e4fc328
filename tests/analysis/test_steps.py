"""S, final error and A over the number of steps: definitions, pairing, exclusions, slopes and the figure."""

import numpy as np
import pytest

from analysis import impulse, steps
from analysis.answer import amplification as amp
from analysis.answer import margins
from analysis.common import runs
from tests.builders.recorded import recorded
from tests.builders.replayed import answered
from tests.builders.synthetic import gaussian_run
from tests.ground_truth import constructed


def norm(field):
    return np.sqrt((np.asarray(field, dtype=np.float64) ** 2).sum(axis=(-3, -2, -1)))


# --- A, which describes ---


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
    whole = norm(run["trajectory"]["delta"].sel(arm="R4S32").isel(step=-1))
    np.testing.assert_allclose(impulse(run)["sum_l2"].sel(mask="R4S32"), whole, rtol=1e-10)


# --- the study ---


def study(counts=(50, 100, 250), samples=12, gain=1.01, **options):
    """Runs by hand whose log A is that of the constructed system of iterated gain."""
    found = [constructed.iterate(gain, gain, 0.3, n, samples, 0).log_amplification for n in counts]
    return [recorded({"R4S32": log_a}, steps=n, **options) for n, log_a in zip(counts, found, strict=True)], found


def grown(counts=(50, 100, 250), samples=12, feedback=0.2, error=0.4):
    """S follows N to the power `feedback` at full dose and stays at a tenth; the error follows `error`."""
    arms = []
    for count in counts:
        size = 0.1 * (count / 50) ** error * np.exp(np.linspace(-0.1, 0.1, samples))
        full = {"S": 1.1 * (count / 50) ** feedback, "error": 4 * size}
        arms.append({"R4S32": full, "R4S32@strength=0.1": {"S": 1.1, "error": 0.4 * size}})
    return [answered(each, steps=count, samples=samples) for each, count in zip(arms, counts, strict=True)]


def test_every_dose_has_slopes_of_its_own():
    """By hand: S to the power .2 and 0, the error to the power .4; |delta| .4 to .76 in spreads of 4."""
    found = steps(grown())
    np.testing.assert_allclose(found["feedback_slope"].sel(arm="R4S32"), 0.2, rtol=1e-9)
    np.testing.assert_allclose(found["feedback_slope"].sel(arm="R4S32@strength=0.1"), 0, atol=1e-12)
    np.testing.assert_allclose(found["error_slope"], 0.4, rtol=1e-9)
    middle = np.exp(found["log_error_interval"].sel(arm="R4S32", bound="estimate"))
    np.testing.assert_allclose(middle, 0.1 * (np.array([50, 100, 250]) / 50) ** 0.4, rtol=1e-9)
    assert found["dose"].values.tolist() == [1.0, 0.1]
    assert np.isnan(found["amplification_slope"]).all()  # no null was recorded
    assert steps.table(found)["p_S"].tolist() == pytest.approx([0.2] * 3 + [0] * 3, abs=1e-9)


def test_the_slope_of_a_is_that_of_the_known_system():
    several, log_a = study()
    found = steps(several)
    expected = np.polyfit(np.log([50, 100, 250]), np.array(log_a), 1)[0]
    np.testing.assert_allclose(found["amplification_slope"].sel(arm="R4S32"), expected, rtol=1e-10)
    interval = found["amplification_slope_interval"].sel(arm="R4S32", bound="estimate")
    assert float(interval) == pytest.approx(expected.mean())
    np.testing.assert_allclose(
        found["log_amplification_interval"].sel(arm="R4S32", bound="estimate"),
        [values.mean() for values in log_a],
        rtol=1e-10,
    )
    assert steps.table(found)["A"].tolist() == pytest.approx([np.exp(values.mean()) for values in log_a])


def test_paths_count_as_one_start():
    """Four paths of three starts: the interval is that of the three means."""
    several = []
    for count in (50, 100):
        size = np.exp(np.log(count) * np.repeat([0.1, 0.2, 0.6], 4)) * np.tile([0.9, 1.0, 1.1, 1.2], 3)
        run = answered({"R4S32": {"S": size}}, steps=count, samples=12, seeds=np.repeat([5, 6, 7], 4))
        paths = {"path": ("sample", np.tile(np.arange(4), 3)), "start": ("sample", np.repeat(np.arange(3), 4))}
        several.append(run.map_over_datasets(lambda data, paths=paths: data.assign_coords(paths)))
    nested = steps(several)
    alone = steps([run.isel(sample=slice(0, None, 4)) for run in several])
    np.testing.assert_allclose(nested["feedback_slope_interval"], alone["feedback_slope_interval"], rtol=1e-9)


def test_runs_may_come_in_any_order_and_as_a_dict():
    several, _ = study()
    mixed = steps({"b": several[2], "a": several[0], "c": several[1]})
    np.testing.assert_array_equal(mixed["steps"], [50, 100, 250])
    np.testing.assert_array_equal(mixed["amplification_slope"], steps(several)["amplification_slope"])


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
    np.testing.assert_allclose(found["amplification_slope"], 0.5 / np.log(2), rtol=1e-10)
    assert found.attrs["unpaired"] == 1
    assert "1 samples are not in every run" in steps.sentence(found)


def test_a_sample_missing_at_one_count_has_no_slope():
    first = recorded({"R4S32": np.log([1, 1, 1, 1e-4])}, steps=50, floor=0.001)
    second = recorded({"R4S32": np.zeros(4)}, steps=100, floor=0.001)
    assert np.isnan(steps([first, second])["amplification_slope"]).sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 50}, r"there is only \[50\]"),
        ({"steps": 100, "guidance": 4.0}, "differ in guidance"),
        ({"steps": 100, "model": "sd3"}, "differ in model"),
        ({"steps": 100, "seeds": [10, 11, 12]}, "share no arm or no sample"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change, message):
    with pytest.raises(runs.RunError, match=message):
        steps([recorded({"R4S32": np.zeros(3)}, steps=50), recorded({"R4S32": np.zeros(3)}, **change)])


def test_one_number_of_steps_is_no_study_and_says_what_to_type():
    with pytest.raises(runs.RunError, match=r"counterfactual steps.*--record verdict.*trace analyze steps RUN RUN"):
        steps(recorded({"R4S32": np.zeros(3)}))


def test_the_sentence_and_the_figure_tell_every_mask_and_dose():
    found = steps(grown())
    text = steps.sentence(found)
    assert "R4S32: S 1.10 to 1.52, p_S = 0.20 [0.20, 0.20]; final error 0.10 to 0.19, p_e = 0.40" in text
    assert "R4S32 × 0.1: S 1.10 to 1.10, p_S = 0.000" in text
    assert "A flat slope does not say that the trajectory amplifies nothing" in text
    figure = steps.figure(found)
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["R4S32", "R4S32 × 0.1"]
    assert figure.axes[0].get_title(loc="left") == "a  Feedback"
    assert margins.SLOPE_MARGIN == 0.10
    older, _ = study()
    assert "additive null" in steps.figure(steps(older)).axes[0].get_title(loc="left")


def test_a_wide_spread_leaves_the_axis_positive_and_every_sample_in_view():
    """Samples from 0.1 to 30: limits found on a linear axis would reach below 0 and break the logarithmic one."""
    log_a = np.log([0.1, 1.0, 2.0, 30.0])
    found = steps([recorded({"R4S32": log_a}, steps=count) for count in (50, 100)])
    low, high = steps.figure(found).axes[0].get_ylim()
    assert 0 < low < 0.1
    assert high > 30
