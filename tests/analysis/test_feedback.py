"""Feedback along the path: definitions by hand, closed forms, what is shown, and what a run must hold."""

import numpy as np
import pytest

from analysis import feedback
from analysis.common import runs
from tests.builders.replayed import SHAPE, answered, replayed_run
from tests.builders.synthetic import gaussian_run
from tests.ground_truth import gaussian

LAM = np.geomspace(10, 0.1, 64).reshape(SHAPE)
CLEAN = gaussian.gaussian_denoiser(LAM)


def shifted(x, alpha, sigma):
    return CLEAN(x, alpha, sigma) + 0.05


def doubled(x, alpha, sigma):
    return 1.2 * CLEAN(x, alpha, sigma) + 0.05


def test_a_constant_shift_feeds_nothing_back_at_any_step():
    """The masked path is the replay itself: S = 1 at every step, and its injections are those of the clean path."""
    found = feedback(replayed_run(CLEAN, {"R4S32": shifted}, steps=20)).sel(arm="R4S32")
    for name in ("S", "injection_ratio", "shift_ratio"):
        np.testing.assert_allclose(found[name], 1, rtol=1e-9)
    np.testing.assert_allclose(found["final_interval"], 1, rtol=1e-9)


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_feedback_of_a_linear_mask_has_its_closed_form_per_step(sampler):
    """One mode, D = k x and masked 1.2 D + b: gain of the masked map p + 1.2 q k against p + q k, per pixel."""
    steps = 12
    run = replayed_run(CLEAN, {"R4S32": doubled}, sampler=sampler, steps=steps, starts=4)
    schedule = gaussian.SCHEDULES[sampler](steps)
    clean, sensitivity = gaussian.step_gain(schedule, LAM), gaussian.x0_sensitivity(schedule.alpha, schedule.sigma, LAM)
    factor = gaussian.injection_factor(schedule).reshape(-1, 1, 1, 1)
    latent = run["trajectory"]["latent"].values
    start = latent[:, 0] / clean[0]  # x_T, for the first step is linear and adds no noise
    before = np.concatenate([start[:, None], latent[:, :-1]], axis=1)
    found = feedback(run).sel(arm="R4S32")
    delta = replay = np.zeros_like(before[:, 0])
    for k in range(steps):
        injected = factor[k] * (0.2 * sensitivity[k] * before[:, k] + 0.05)
        delta = (clean[k] + 0.2 * factor[k] * sensitivity[k]) * delta + injected
        replay = clean[k] * replay + injected
        expected = np.sqrt((delta**2).sum((1, 2, 3)) / (replay**2).sum((1, 2, 3)))
        np.testing.assert_allclose(found["S"].isel(step=k), expected, rtol=1e-8)


def test_the_final_value_and_its_mean_are_by_hand():
    size = np.exp(np.linspace(-0.5, 0.5, 16))
    found = feedback(answered({"R4S32": {"S": size}, "K64": {"S": 2.0}}))
    np.testing.assert_allclose(found["final"].sel(arm="R4S32"), size, rtol=1e-12)
    np.testing.assert_allclose(found["final_interval"].sel(bound="estimate"), [1, 2], rtol=1e-12)
    np.testing.assert_allclose(found["final_rms"], [np.sqrt((size**2).mean()), 2], rtol=1e-12)
    assert feedback.table(found)["S"].tolist() == pytest.approx([1, 2])
    text = feedback.sentence(found)
    assert "R4S32: S 1.00 [0.8" in text
    assert "K64: S 2.00 [2.00, 2.00] at the end, RMS 2.00" in text


def test_the_default_run_suffices():
    run = replayed_run(CLEAN, {"R4S32": doubled}, steps=8, own=False)
    found = feedback(run)
    assert "injection_ratio" not in found
    assert len(feedback.figure(found).axes) == 1


def test_a_run_without_a_replay_says_what_to_record():
    with pytest.raises(runs.RunError, match="--record replay"):
        feedback(gaussian_run(samples=3, steps=4))


def test_paths_of_a_start_count_once():
    run = replayed_run(CLEAN, {"R4S32": doubled}, steps=8, starts=5, paths=4)
    found = feedback(run)
    assert (found.attrs["samples"], found.attrs["starts"]) == (20, 5)
    logs = np.log(found["final"].sel(arm="R4S32").values).reshape(5, 4)
    estimate = found["final_interval"].sel(arm="R4S32", bound="estimate")
    np.testing.assert_allclose(np.log(estimate), logs.mean(), rtol=1e-10)
    assert "20 samples from 5 starts" in feedback.sentence(found)


def test_the_figure_shows_the_three_pictures_of_the_same_samples():
    run = replayed_run(CLEAN, {"R4S32": doubled}, steps=8, starts=4, paths=2, images=True)
    found = feedback(run)
    assert found["image"].dims == ("picture", "shown", "image_y", "image_x", "rgb")
    images = run["images"].to_dataset()
    one_of_each = images.isel(sample=[0, 2, 4, 6])
    np.testing.assert_array_equal(found["image"].sel(picture="clean"), one_of_each["image"].sel(arm="clean"))
    np.testing.assert_array_equal(found["image"].sel(picture="replayed"), one_of_each["replay"].sel(arm="R4S32"))
    np.testing.assert_array_equal(found["image"].sel(picture="masked"), one_of_each["image"].sel(arm="R4S32"))
    last = feedback.figure(found).axes[-1]
    assert [label.get_text() for label in last.get_yticklabels()] == ["clean", "replayed", "masked"]
