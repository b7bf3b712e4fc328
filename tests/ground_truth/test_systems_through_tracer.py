"""Feedback of the linear exact systems through the real tracer, against closed forms mode by mode, for every sampler.

The table of docs/science.md and the answers of all systems: `test_answers_through_tracer`.
"""

import numpy as np
import pytest

import tracer
from tests.builders.analytic import exact
from tests.ground_truth import constructed, gaussian
from tests.oracles.three_paths import norm

SYSTEMS = {system.name: system for system in constructed.EXACT_SYSTEMS}
LINEAR = [name for name, system in SYSTEMS.items() if system.linear]


def run_of(folder, name, steps, sampler, samples):
    path = tracer.trace(
        exact(SYSTEMS[name], sampler), "R4S32", samples=samples, batch_size=samples, steps=steps, sampler=sampler,
        record="verdict,latents,x0", floor=False, out=folder / f"run{steps}{sampler}",
    )  # fmt: skip
    return tracer.open_run(path).sel(arm="R4S32")


def on_paper(run, system, sampler):
    """Final delta and w - x of a linear system from the tracer's clean predictions and closed forms, pixel by pixel."""
    coords = run["metrics"].ds.coords
    levels = [coords[name].values for name in ("alpha", "sigma", "alpha_after", "sigma_after")]
    schedule = gaussian.Schedule(sampler, coords["timestep"].values, *levels)
    gain, factor = gaussian.step_gain(schedule, constructed.SPECTRUM), gaussian.injection_factor(schedule)
    steepness = gaussian.x0_sensitivity(schedule.alpha, schedule.sigma, constructed.SPECTRUM)
    predicted = run["trajectory"].x0.transpose("step", "sample", ...).values
    delta = replay = np.zeros_like(predicted[0])
    for k in range(schedule.steps):
        level = schedule.alpha[k], schedule.sigma[k]
        ones = np.ones_like(constructed.SPECTRUM)
        shift = system.masked(0 * ones, *level)
        clean = system.clean(ones, *level)  # 0 at pure noise, where any factor leaves it 0
        slope = np.divide(system.masked(ones, *level) - shift, clean, out=np.ones_like(ones), where=clean != 0)
        injected = factor[k] * ((slope - 1) * predicted[k] + shift)
        delta = (gain[k] + factor[k] * (slope - 1) * steepness[k]) * delta + injected
        replay = gain[k] * replay + injected
    return delta, replay


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
@pytest.mark.parametrize("name", LINEAR)
def test_feedback_of_a_linear_system_is_that_of_paper(tmp_path, name, sampler):
    run = run_of(tmp_path, name, 50, sampler, 3)
    delta, replay = on_paper(run, SYSTEMS[name], sampler)
    found = norm(run["trajectory"].final_delta.values) / norm(run["trajectory"].final_replay.values)
    np.testing.assert_allclose(found, norm(delta) / norm(replay), rtol=1e-6)
    np.testing.assert_allclose(run["trajectory"].final_replay.values, replay, atol=1e-9 * abs(replay).max())


def test_the_bump_is_centred_on_timestep_500_in_every_schedule():
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for t in (350, 500, 620):
        want = np.exp(-(((t - 500) / 150) ** 2) / 2)
        assert constructed.bump(np.sqrt(kept[t]), np.sqrt(1 - kept[t])) == pytest.approx(want, abs=1e-12)
        sigma = 1 / (1 + np.sqrt(kept[t] / (1 - kept[t])))  # the flow level of the same signal-to-noise ratio
        assert constructed.bump(1 - sigma, sigma) == pytest.approx(want, abs=1e-9)
