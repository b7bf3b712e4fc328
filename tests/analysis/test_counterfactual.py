"""Windows, prefixes and doses on exact systems: shares that must add up, and a dose response known in closed form."""

import numpy as np
import pytest

import analysis
from analysis.common import runs
from tests.builders import synthetic
from tests.ground_truth import gaussian

STEPS = 12


def arms(windows, **mask):
    found = {"R4S32": mask}
    for start, stop in windows:
        found[f"R4S32@steps={start}:{stop}"] = {**mask, "window": range(start, stop)}
    return found


@pytest.mark.parametrize("sampler", tuple(gaussian.SCHEDULES))
def test_tiling_windows_of_a_pure_shift_make_up_the_whole_error(sampler):
    run = synthetic.gaussian_run(arms([(0, 4), (4, 8), (8, 12)], shift=0.1), sampler=sampler, steps=STEPS)
    along = analysis.counterfactual(run)["along"]
    np.testing.assert_allclose(along.sel(arm=along["arm"] != "R4S32").sum("arm"), 1.0, rtol=1e-10)


def test_prefix_steps_telescope_to_the_whole_error_even_with_feedback():
    run = synthetic.gaussian_run(arms([(0, 3), (0, 7), (0, 12)], scale=0.8, shift=0.1), steps=STEPS)
    dataset = analysis.counterfactual(run)
    assert dataset.attrs["telescoping"] < 1e-12
    np.testing.assert_allclose(dataset["step_along"].sum("arm"), 1.0, rtol=1e-10)
    end = run["trajectory"]["delta"].isel(step=-1)
    whole, seven, three = (end.sel(arm=arm) for arm in ("R4S32", "R4S32@steps=0:7", "R4S32@steps=0:3"))
    state = ("channel", "y", "x")
    added = ((seven - three) * whole).sum(state) / (whole**2).sum(state)
    np.testing.assert_allclose(dataset["step_along"].sel(arm="R4S32@steps=0:7"), added, rtol=1e-10)


def test_a_prefix_that_differs_from_the_whole_mask_is_reported():
    masks = arms([(0, 12)], shift=0.1)
    masks["R4S32@steps=0:12"]["shift"] = 0.11
    dataset = analysis.counterfactual(synthetic.gaussian_run(masks, steps=STEPS))
    assert dataset.attrs["telescoping"] == pytest.approx(0.1)


def test_the_dose_slope_of_a_linear_response_is_one_and_of_a_saturating_one_below():
    masks = {"R4S32": {"shift": 0.3}, "R4S32@strength=0.1": {"shift": 0.03}, "K8": {"shift": 0.3}}
    masks["K8@strength=0.1"] = {"shift": 0.15}  # half of the effect at a tenth of the dose
    slope = analysis.counterfactual(synthetic.gaussian_run(masks, steps=STEPS))["slope"]
    np.testing.assert_allclose(slope.sel(arm="R4S32@strength=0.1"), 1.0, rtol=1e-10)
    np.testing.assert_allclose(slope.sel(arm="K8@strength=0.1"), np.log10(2), rtol=1e-10)


@pytest.mark.parametrize("sampler", tuple(gaussian.SCHEDULES))
def test_a_window_and_its_complement_make_up_the_whole_error_of_a_pure_shift(sampler):
    masks = arms([(4, 8)], shift=0.1) | {"R4S32@pause=4:8": {"shift": 0.1, "window": [0, 1, 2, 3, 8, 9, 10, 11]}}
    dataset = analysis.counterfactual(synthetic.gaussian_run(masks, sampler=sampler, steps=STEPS))
    assert list(dataset["kind"].values) == ["whole", "window", "all but"]
    assert (dataset["start"].values[2], dataset["stop"].values[2]) == (4, 8)
    along = dataset["along"]
    np.testing.assert_allclose(along.sel(arm="R4S32@steps=4:8") + along.sel(arm="R4S32@pause=4:8"), 1.0, rtol=1e-10)
    assert "leaving out steps 4:8 spares most" in analysis.counterfactual.sentence(dataset)
    assert len(analysis.counterfactual.figure(dataset).axes) == 2


def test_arms_are_named_for_what_they_mask():
    masks = arms([(0, 4), (4, 8), (8, 12)], shift=0.1) | {"R4S32@strength=0.3": {"shift": 0.03}}
    dataset = analysis.counterfactual(synthetic.gaussian_run(masks, steps=STEPS))
    assert list(dataset["kind"].values) == ["whole", "prefix", "window", "suffix", "dose"]
    assert set(dataset["mask"].values) == {"R4S32"}


def test_the_sentence_names_the_window_that_matters_most_per_step():
    run = synthetic.gaussian_run(arms([(0, 6), (6, 12)], shift=0.1), sampler="ddpm", steps=STEPS)
    assert "steps 6:12 alone matter most" in analysis.counterfactual.sentence(analysis.counterfactual(run))


def test_without_the_whole_mask_there_is_nothing_to_compare_with():
    masks = arms([(0, 6)], shift=0.1)
    del masks["R4S32"]
    dataset = analysis.counterfactual(synthetic.gaussian_run(masks, steps=STEPS))
    assert dataset["of_whole"].isnull().all()
    assert dataset["final"].notnull().all()
    assert "nothing to compare with" in analysis.counterfactual.sentence(dataset)


def test_a_run_of_whole_masks_is_refused_with_what_to_type():
    with pytest.raises(runs.RunError, match=r"R4S32@steps=0\.0:0\.5"):
        analysis.counterfactual(synthetic.gaussian_run())


@pytest.mark.parametrize(
    ("windows", "titles"),
    [
        ([(0, 4), (4, 8)], ["a  Masked only in a window", "b  Dose of the mask (dotted: linear)"]),
        ([(0, 4), (0, 8)], ["a  Masked from the start, then clean", "b  Dose of the mask (dotted: linear)"]),
    ],
)
def test_the_figure_has_a_panel_for_each_kind_there_is(windows, titles):
    masks = arms(windows, shift=0.1) | {"R4S32@strength=0.3": {"shift": 0.03}}
    dataset = analysis.counterfactual(synthetic.gaussian_run(masks, steps=STEPS))
    assert [axes.get_title(loc="left") for axes in analysis.counterfactual.figure(dataset).axes] == titles
    assert len(analysis.counterfactual.table(dataset)) == 4


def test_the_heading_says_the_confidence_that_was_asked_for():
    run = synthetic.gaussian_run(arms([(0, 4)], shift=0.1), steps=STEPS)
    figure = analysis.counterfactual.figure(analysis.counterfactual(run, confidence=0.5))
    assert figure.legends[0].get_title().get_text().endswith("median, 50% BCa")


def test_an_arm_with_a_window_and_a_pause_is_described_by_its_pause():
    masks = arms([], shift=0.1) | {"R4S32@steps=2:9;pause=4:6": {"shift": 0.1, "window": [2, 3, 6, 7, 8]}}
    dataset = analysis.counterfactual(synthetic.gaussian_run(masks, steps=STEPS)).isel(arm=1)
    assert (dataset["kind"].item(), dataset["start"].item(), dataset["stop"].item()) == ("all but", 4, 6)
    assert dataset["mask"].item() == "R4S32"
