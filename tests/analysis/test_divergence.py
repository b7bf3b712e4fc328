"""Samples that turned NaN or infinite: counted by every measure, and never read as a small error."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.common import divergence, runs
from tests.analysis.test_figures import RUNS
from tests.analysis.test_onset import framed_run
from tests.builders import cells
from tests.builders.attended import attended
from tests.builders.blown_up import blown_up, with_status
from tests.builders.replayed import answered, replayed_run
from tests.builders.synthetic import gaussian_run
from tests.builders.worded import worded
from tests.ground_truth import gaussian
from tests.nan_lint import bare_reductions

LOST = (1, 4)
ONE_RUN = sorted(set(RUNS) - {"compare"})


def a_run(name: str) -> xr.DataTree:
    made = RUNS[name]()
    return made if isinstance(made, xr.DataTree) else made[0]


def masked(run: xr.DataTree) -> str:
    return runs.names(run)[0]


def values_of(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(name): array.values for name, array in dataset.variables.items()}


def without(run: xr.DataTree) -> xr.DataTree:
    """The run as if the lost samples had never been asked for."""
    return runs.only(run, np.setdiff1d(np.arange(run["metrics"].sizes["sample"]), LOST))


@pytest.mark.parametrize(("value", "flagged"), [(np.nan, True), (np.nan, False), (np.inf, False)])
@pytest.mark.parametrize("name", [name for name in ONE_RUN if name not in ("quality", "verdict")])
def test_every_measure_is_that_of_the_other_samples_and_counts_these(name, value, flagged):
    run = a_run(name)
    measure, arm = analysis.MEASURES[name], masked(run)
    of, first = run["metrics"].sizes["sample"], min(3, run["metrics"].sizes["step"] - 1)
    wild = measure(blown_up(run, {arm: LOST}, step=first, value=value, flagged=flagged))
    calm = measure(without(run))
    assert wild.attrs["diverged"] == 2
    for key, expected in values_of(calm).items():
        np.testing.assert_array_equal(values_of(wild)[key], expected, err_msg=key)
    assert f"2 of {of} samples diverged ({arm} from step {first})" in measure.sentence(wild)
    assert measure.sentence(wild).startswith(measure.sentence(calm))
    for table in (measure.table(wild), measure.records(wild)):
        assert "diverged" in table
        assert (table["diverged"] == 2).any()
    assert "diverged" not in measure.table(calm)


def test_every_measure_of_runs_is_in_these_tests():
    asked = {name for name, measure in analysis.MEASURES.items() if measure.reads in ("run", "runs")}
    below = {"compare", "steps", "paths", "renoise", "calibrate", "places", "onset", "words", "schedule", "tradeoff"}
    assert asked - set(ONE_RUN) == below  # tested by themselves


def test_a_schedule_is_chosen_by_the_samples_that_are_whole():
    arms = cells.singles(4)
    run = cells.run_of(arms, cells.linear(0, steps=4, layers=1), steps=4, layers=1)
    wild = analysis.schedule(blown_up(run, {arms[2]: LOST}, step=2))
    calm = analysis.schedule(without(run))
    np.testing.assert_array_equal(wild["expected"], calm["expected"])
    np.testing.assert_array_equal(wild["chosen"], calm["chosen"])
    assert f"2 of 8 samples diverged ({arms[2]} from step 2)" in analysis.schedule.sentence(wild)


def test_maps_of_words_are_of_the_samples_that_are_whole():
    run = worded()
    of = run["metrics"].sizes["sample"]
    wild = analysis.words(blown_up(run, {masked(run): (1,)}, step=3))
    calm = analysis.words(runs.only(run, np.setdiff1d(np.arange(of), [1])))
    np.testing.assert_array_equal(wild["alike"], calm["alike"])
    np.testing.assert_array_equal(wild["paid"], calm["paid"])
    assert f"1 of {of} samples diverged ({masked(run)} from step 3)" in analysis.words.sentence(wild)


def test_places_and_onset_are_of_the_samples_that_are_whole():
    """The clean arm takes a sample along; of frames the masked one does."""
    mass = np.random.default_rng(0).uniform(size=(8, 4, 2, 12))
    run = attended(mass, (1, 3, 3))
    wild = analysis.places(blown_up(run, {"clean": LOST}, step=3))
    np.testing.assert_array_equal(wild["ratio"], analysis.places(without(run))["ratio"])
    assert "2 of 8 samples diverged (clean from step 3)" in analysis.places.sentence(wild)
    curves = np.random.default_rng(0).normal(size=(2, 8, 10)).cumsum(-1)
    run = framed_run(curves)
    wild = analysis.onset(blown_up(run, {"R4S0": LOST}, step=3))
    np.testing.assert_array_equal(wild["change"], analysis.onset(without(run))["change"])
    assert "2 of 8 samples diverged (R4S0 from step 3)" in analysis.onset.sentence(wild)


def two_counts() -> list[xr.DataTree]:
    return [answered({"R4S32": {"S": 1.1, "systematic": 1.2}}, steps=steps) for steps in (50, 100)]


def test_several_runs_are_compared_on_the_samples_that_diverged_in_none():
    few, many = two_counts()
    result = analysis.steps([blown_up(few, {"R4S32": LOST}, step=7), many])
    assert result.sizes["sample"] == few["metrics"].sizes["sample"] - 2
    assert "2 of 16 samples diverged (R4S32 from step 7)" in analysis.steps.sentence(result)
    first, second = RUNS["compare"]()
    result = analysis.compare([first, blown_up(second, {"K64": [0]}, step=2)])
    assert "1 of 5 samples diverged (K64 from step 2)" in analysis.compare.sentence(result)


def of_paths(**settings) -> xr.DataTree:
    clean = gaussian.gaussian_denoiser(1.0)
    masks = {name: gaussian.affine_mask(clean, 1.0, 0.1) for name in ("R4S32@steps=3:4", "R4S32")}
    return replayed_run(clean, masks, steps=12, starts=4, paths=3, **settings)


@pytest.mark.parametrize(("name", "arm"), [("paths", "R4S32"), ("renoise", "R4S32@steps=3:4")])
def test_several_paths_of_a_start_are_those_that_did_not_diverge(name, arm):
    measure, run = analysis.MEASURES[name], of_paths()
    wild, calm = measure(blown_up(run, {arm: LOST}, step=5)), measure(without(run))
    for key, expected in values_of(calm).items():
        np.testing.assert_array_equal(values_of(wild)[key], expected, err_msg=key)
    assert f"2 of 12 samples diverged ({arm} from step 5)" in measure.sentence(wild)


def test_scores_of_samples_that_diverged_are_left_out():
    run = RUNS["quality"]()
    status = np.ones((4, 12), np.int8)
    status[1, list(LOST)] = 2
    run = with_status(run, status)
    result = analysis.quality(run)
    assert result.sizes["sample"] == 10
    assert "2 of 12 samples diverged (R4S32)" in analysis.quality.sentence(result)


def test_an_arm_that_always_diverges_is_named_and_does_not_take_the_others_along():
    run = gaussian_run({"R4S32": {"shift": 0.05}, "K8": {"shift": 0.02}}, samples=8)
    wild = blown_up(run, {"K8": range(8)}, step=2)
    result = analysis.growth(wild)
    assert result["arm"].values.tolist() == ["R4S32"]
    assert result.attrs["samples"] == 8
    assert "No sample of K8 is left" in analysis.growth.sentence(result)
    assert json.loads(result.attrs["diverged_by_arm"]) == {"K8": [8, 2]}


def test_a_clean_arm_that_always_diverges_leaves_nothing_and_says_so():
    run = gaussian_run({"R4S32": {"shift": 0.05}}, samples=4)
    every = {str(arm): range(4) for arm in run["metrics"]["arm"].values}
    with pytest.raises(runs.RunError, match=r"4 of 4 samples diverged \(clean from step 0\).*--guidance"):
        analysis.growth(blown_up(run, every, step=0))


def test_samples_that_are_not_there_yet_are_counted_too():
    run = gaussian_run({"R4S32": {"shift": 0.05}}, samples=6)
    status = np.ones((run["metrics"].sizes["arm"], 6), np.int8)
    status[:, 5] = 0
    run = with_status(run, status)
    sentence = analysis.growth.sentence(analysis.growth(run))
    assert "1 of 6 samples are not complete yet" in sentence
    assert divergence.left_out(run)["diverged"] == 0


# --- the verdict ---

ADDITIVE = {"R4S32": {"S": np.exp(np.linspace(-0.02, 0.02, 24)), "systematic": 1.0}}


def judged(**where) -> xr.Dataset:
    run = answered(ADDITIVE, samples=24)
    return analysis.verdict(blown_up(run, where, step=9) if where else run)


def test_absence_of_feedback_is_not_shown_by_the_survivors():
    calm, wild = judged().isel(cell=0), judged(R4S32=[3, 5]).isel(cell=0)
    assert (calm["feedback"].item(), calm["along"].item()) == ("none", "additive")
    assert (wild["feedback"].item(), wild["along"].item()) == ("undecided", "undecided")
    assert int(wild["diverged"]) == 2
    assert int(wild["samples"]) == 22
    assert wild["claim"].item() == "open"
    text = analysis.verdict.sentence(judged(R4S32=[3, 5]))
    assert "withheld: 2 samples diverged and are not in this estimate, by which it would be none" in text
    assert "2 of 24 samples diverged" in text
    assert (analysis.verdict.table(judged(R4S32=[3, 5]))["diverged"] == 2).all()


def test_feedback_that_survivors_show_stands_and_says_of_whom():
    run = blown_up(answered({"R4S32": {"S": 2.0, "systematic": 2.0}}, samples=24), {"R4S32": [0]}, step=9)
    result = analysis.verdict(run)
    assert result["feedback"].item() == "amplifying"
    assert "1 sample diverged and is not in this estimate" in analysis.verdict.sentence(result)


def test_a_mask_under_which_everything_diverged_is_a_row_of_its_own():
    run = answered(ADDITIVE | {"K64": {"S": 1.0, "systematic": 1.0}}, samples=24)
    result = analysis.verdict(blown_up(run, {"K64": range(24)}, step=1))
    row = result.sel(cell="K64")
    assert (row["feedback"].item(), row["claim"].item(), int(row["diverged"])) == ("undecided", "open", 24)
    assert result.sel(cell="R4S32")["feedback"].item() == "none"  # its own samples are all there
    assert "24 of 24 samples diverged" in analysis.verdict.sentence(result)


def test_a_slope_that_is_flat_needs_every_number_of_steps_whole():
    several = [answered(ADDITIVE, samples=24, steps=steps) for steps in (50, 100, 250)]
    assert analysis.verdict(several)["steps_answer"].item() == "flat"
    several[0] = blown_up(several[0], {"R4S32": [2]}, step=9)
    result = analysis.verdict(several)
    assert result["steps_answer"].item() == "undecided"
    assert result["feedback"].item() == "none"  # judged at 250 steps, where all are there


# --- no reduction leaves NaN out silently ---


def test_no_reduction_in_analysis_leaves_out_nan_without_a_word():
    sources = sorted(Path(analysis.__file__).parent.rglob("*.py"))
    found = {str(file.name): bare for file in sources if (bare := bare_reductions(file.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        'energy.sum("ring")',
        'values.mean(("y", "x"))',
        "field.sum(spectrum.STATE)",
        'float(at["gain"].mean())',
        '(result["a"] ** 2).mean()',
        "x.sel(arm=a).max()",
        'at.where(at > 0)["b"].quantile(dim="sample", q=0.5)',
        "np.nansum(x, axis=0)",
        'frame.groupby("arm").mean()',
    ],
)
def test_the_rule_sees_what_would_leave_out_nan(text):
    assert bare_reductions(text)


@pytest.mark.parametrize(
    "text",
    [
        'energy.sum("ring", skipna=False)',
        "values.sum(axis=-1)",
        "values.mean(0)",
        'at["gain"].values.mean()',
        'int(at["gain"].notnull().sum())',
        "np.mean(values, axis=1)",
        "np.log(gain).mean()",
        'frame.groupby("arm").mean()  # NaN: none are left',
    ],
)
def test_the_rule_leaves_the_rest_alone(text):
    assert not bare_reductions(text)


def test_the_report_says_it_on_top_and_shows_the_arms_that_are_left():
    run = answered_with_pictures()
    page = analysis.report(blown_up(run, {"K8": range(4), "R4S32": [0]}, step=2), sections=["feedback"])
    assert "4 of 4 samples diverged (R4S32 from step 2, K8 from step 2)" in page.split("<h2")[0]
    assert 'alt="R4S32, sample 1"' in page
    assert 'alt="K8' not in page


def answered_with_pictures() -> xr.DataTree:
    clean = gaussian.gaussian_denoiser(1.0)
    masks = {name: gaussian.affine_mask(clean, 1.0, 0.1) for name in ("R4S32", "K8")}
    return replayed_run(clean, masks, steps=4, starts=4, images=True)
