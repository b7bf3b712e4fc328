"""Impulse responses, S and R on exact systems; expected numbers from products of closed-form Jacobians."""

import numpy as np
import pytest

import analysis
from analysis.common import runs, spectrum
from analysis.measures.impulse import window_sets
from tests.builders import synthetic
from tests.ground_truth import gaussian

STEPS = 10


def impulses(steps=STEPS, whole=True, width=1, **mask):
    arms = {"R4S32": mask} if whole else {}
    for start in range(0, steps, width):
        arms[f"R4S32@steps={start}:{start + width}"] = {**mask, "window": range(start, start + width)}
    return arms


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(
        spectrum, "clean_variance", lambda run: synthetic.true_level_variance(run["trajectory"]["latent"])
    )
    monkeypatch.setattr(spectrum, "data_variance", lambda run: synthetic.true_lam())


@pytest.mark.parametrize("sampler", tuple(gaussian.SCHEDULES))
def test_an_impulse_gains_the_product_of_the_remaining_jacobians(sampler):
    run = synthetic.gaussian_run(impulses(shift=0.2), sampler=sampler, steps=STEPS)
    schedule, lam = gaussian.SCHEDULES[sampler](STEPS), synthetic.spectrum()
    gain = gaussian.final_gain(schedule, lam)  # a constant shift, so the gain is the root mean square over the modes
    expected = np.sqrt((gain**2).mean((1, 2, 3)))
    found = analysis.impulse(run)["gain"].sel(mask="R4S32")
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None], found.shape), rtol=1e-10)


@pytest.mark.parametrize("sampler", tuple(gaussian.SCHEDULES))
def test_in_a_gaussian_world_impulses_equal_their_null_and_a_shift_has_s_and_r_of_one(sampler, exact):
    dataset = analysis.impulse(synthetic.gaussian_run(impulses(shift=0.2), sampler=sampler, steps=STEPS))
    for name in ("excess", "excess_gaussian", "S", "R"):
        np.testing.assert_allclose(dataset[name], 1.0, rtol=1e-10, err_msg=name)


def test_feedback_through_the_masked_map_shows_in_s_and_not_in_r(exact):
    run = synthetic.gaussian_run(impulses(scale=0.8, shift=0.2), sampler="ddim", steps=STEPS)
    dataset = analysis.impulse(run)
    np.testing.assert_allclose(dataset["R"], 1.0, rtol=1e-10)
    single = run["trajectory"]["delta"].isel(step=-1).sel(arm=list(impulses(whole=False))).sum("arm")
    whole = run["trajectory"]["delta"].isel(step=-1).sel(arm="R4S32")
    size = [np.sqrt((part**2).sum(("channel", "y", "x"))) for part in (whole, single)]
    np.testing.assert_allclose(dataset["S"].sel(mask="R4S32"), size[0] / size[1], rtol=1e-12)
    assert (dataset["S"] < 0.95).all()


def test_windows_that_tile_the_run_serve_as_impulses(exact):
    dataset = analysis.impulse(synthetic.gaussian_run(impulses(width=5, shift=0.2), sampler="ddim", steps=STEPS))
    assert list(dataset["window"].values) == [0, 5]
    np.testing.assert_allclose(dataset["S"], 1.0, rtol=1e-10)


def test_s_is_unknown_without_the_whole_mask_or_with_a_step_left_out():
    alone = analysis.impulse(synthetic.gaussian_run(impulses(whole=False, shift=0.2), steps=STEPS))
    assert alone["S"].isnull().all()
    assert alone["R"].notnull().all()
    arms = impulses(shift=0.2)
    del arms["R4S32@steps=4:5"]
    gap = analysis.impulse(synthetic.gaussian_run(arms, steps=STEPS))
    assert gap["S"].isnull().all()
    assert gap["R"].isnull().all()
    assert "S =" not in analysis.impulse.sentence(gap)


def test_bimodal_impulses_exceed_the_model_free_null_in_rms():
    steps = 40
    arms = {f"R4S32@steps={k}:{k + 1}": {"shift": 0.3, "window": range(k, k + 1)} for k in (5, 20, 39)}
    denoiser = gaussian.bimodal_denoiser(1.0, 0.1)
    dataset = analysis.impulse(synthetic.gaussian_run(arms, steps=steps, samples=16, denoiser=denoiser))
    assert dataset.attrs["null"] == "model-free"
    assert float(dataset["excess_rms"].sel(window=20, mask="R4S32")) > 2
    assert float(dataset["excess_rms"].sel(window=39, mask="R4S32")) == pytest.approx(1)


def test_windows_are_grouped_by_mask_and_other_scope_options_stay():
    arms = ["R4S32", "R4S32@steps=0:1", "R4S32@steps=1:2", "K8@layers=2;steps=0:5", "K8@layers=2;steps=0.5:1.0", "K8"]
    found = window_sets(runs.arms(synthetic.gaussian_run({arm: {} for arm in arms}, steps=10, samples=1)), 10)
    assert set(found) == {"R4S32", "K8@layers=2"}
    assert list(found["K8@layers=2"]) == [range(5), range(5, 10)]


def test_a_run_without_windows_is_refused_with_what_to_type():
    with pytest.raises(runs.RunError, match="--mask R4S32@steps=0:1"):
        analysis.impulse(synthetic.gaussian_run())


def test_the_map_puts_an_impulse_into_the_band_it_was_given_in():
    shift = np.zeros(synthetic.SHAPE)
    shift[:, spectrum.rings(8, 8) == 3] = 0.5
    found = analysis.impulse(synthetic.gaussian_run(impulses(shift=shift), steps=STEPS))["map"].sel(mask="R4S32")
    others = found.sel(band=[name for name in found["band"].values if name != "2-3"])
    assert float(others.max()) < 1e-10 * float(found.sel(band="2-3").min())


def test_the_table_has_a_row_per_window_and_the_figure_a_column_per_mask():
    dataset = analysis.impulse(synthetic.gaussian_run(impulses(shift=0.2), steps=STEPS))
    assert len(analysis.impulse.table(dataset)) == STEPS
    assert analysis.impulse.figure(dataset).axes[0].get_title(loc="left") == "a  Masked at one step only, R4S32"


def test_windows_at_another_dose_are_of_the_mask_at_that_dose():
    dose = [f"R4S32@steps={k}:{k + 1};strength=0.1" for k in range(2)]
    arms = ["R4S32", "R4S32@steps=0:1", "R4S32@steps=1:2", *dose]
    alone = window_sets(runs.arms(synthetic.gaussian_run({arm: {} for arm in arms}, samples=1)), 12)
    assert set(alone) == {"R4S32", "R4S32, dose 0.1"}
    with_whole = runs.arms(synthetic.gaussian_run({arm: {} for arm in [*arms, "R4S32@strength=0.1"]}, samples=1))
    assert set(window_sets(with_whole, 12)) == {"R4S32", "R4S32@strength=0.1"}


def test_an_arm_with_a_pause_is_no_window():
    arms = ["R4S32@pause=0:1", "R4S32@pause=1:2", "R4S32@steps=0:2;pause=0:1"]
    assert window_sets(runs.arms(synthetic.gaussian_run({arm: {} for arm in arms}, samples=1)), 12) == {}
