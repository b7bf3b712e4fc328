"""The real tracer on exact systems: a dense 64-d Gaussian, 250 steps, three samplers, against closed forms.

The clean states and predictions are the tracer's own; every error, gain and impulse is then predicted on paper
(`gaussian.step_gain`, `final_gain`, `injection_factor`) along the system's random axes, to 1e-10 relative.
"""

import numpy as np
import pytest
import torch

import tracer
from analysis.common import runs
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tests.ground_truth.test_gaussian import TABLE
from tracer.trajectory import sample_noise

SHAPE, STEPS = (1, 8, 8), 250
SAMPLERS = tuple(gaussian.SCHEDULES)
LAM = np.geomspace(10, 0.1, 64)
AXES = np.linalg.qr(np.random.default_rng(3).standard_normal((64, 64)))[0]
SCALE, SHIFT = 0.95, 30 * np.random.default_rng(4).standard_normal(64)  # far larger than the states: no digit is lost
EXACT = 1e-10


def clean(x, alpha, sigma):
    """Posterior mean of data with covariance AXES diag(LAM) AXES^T."""
    modes = x.reshape(*x.shape[:-3], 64) @ AXES
    return ((alpha * LAM / (alpha**2 * LAM + sigma**2) * modes) @ AXES.T).reshape(x.shape)


def masked(x, alpha, sigma):
    """An affine mask; its shift is the same field in every sample."""
    return SCALE * clean(x, alpha, sigma) + (SHIFT @ AXES.T).reshape(SHAPE)


def traced(folder, sampler, arms, record, steps=STEPS, **options):
    options = {"samples": 2, "batch_size": 2, "floor": False} | options
    prediction = "flow" if sampler == "flow" else "epsilon"
    denoiser = Analytic(clean, masked, shape=SHAPE, prediction=prediction)
    denoiser.fraction, denoiser.masked_fraction = (0.5, 0.6) if sampler == "ddpm" else (None, None)
    path = tracer.trace(denoiser, arms, steps=steps, sampler=sampler, record=record, out=folder / sampler, **options)
    run = tracer.open_run(path)
    return run, schedule_of(run, sampler)


def schedule_of(run, sampler):
    """The noise levels that the run itself recorded."""
    coords = run["metrics"].ds.coords
    levels = [coords[name].values for name in ("alpha", "sigma", "alpha_after", "sigma_after")]
    return gaussian.Schedule(sampler, coords["timestep"].values, *levels)


def modes(field):
    """A field as a numpy array [..., mode], from dims (..., channel, y, x)."""
    values = field.transpose(..., "channel", "y", "x").values
    return values.reshape(*values.shape[:-3], 64) @ AXES


def norm(values):
    return np.linalg.norm(values, axis=-1)


def injections(run, schedule, noise):
    """G(x) - F(x) on paper, [step, sample, mode]: the shift and 5% of the tracer's clean prediction, and for DDPM the
    changed noise scale times the step's noise.
    """
    predicted = modes(run["trajectory"].x0.transpose("step", ...))
    mean = gaussian.injection_factor(schedule)[:, None, None] * ((SCALE - 1) * predicted + SHIFT)
    wider = gaussian.noise_deviation(schedule, 0.6) - gaussian.noise_deviation(schedule, 0.5)
    return mean, wider[:, None, None] * noise


def step_noise(run, steps):
    """The noise of every step but the last, [step, sample, mode]."""
    samples = [tracer.Sample(i, int(seed)) for i, seed in enumerate(run["seed"].values)]
    like = torch.empty(0, dtype=torch.float64)
    drawn = np.stack([sample_noise(samples, i, SHAPE, like).numpy() for i in range(steps)])
    return drawn.reshape(steps, len(samples), 64) @ AXES


def followed(schedule, injected, window=None):
    """The error of a masked path on paper, [step, sample, mode]: the masked step's own gain while it acts."""
    gain = gaussian.step_gain(schedule, LAM)
    feedback = gaussian.injection_factor(schedule)[:, None] * (SCALE - 1)
    feedback = feedback * gaussian.x0_sensitivity(schedule.alpha, schedule.sigma, LAM)
    delta, path = np.zeros_like(injected[0]), []
    for i in range(schedule.steps):
        acts = window is None or i in window
        delta = gain[i] * delta + acts * (feedback[i] * delta + injected[i])
        path.append(delta)
    return np.stack(path)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gains_injections_interaction_and_closure_of_a_whole_run(tmp_path, sampler):
    record = ("latents", "x0", "decomposition")
    run, schedule = traced(tmp_path, sampler, ["R4S32"], record)
    mean, wider = injections(run, schedule, step_noise(run, STEPS))
    injected = mean + wider
    metrics = {name: run["metrics"][name].sel(arm="R4S32").values.T for name in run["metrics"].data_vars}
    delta = modes(run["trajectory"].delta.sel(arm="R4S32").transpose("step", ...))
    np.testing.assert_allclose(delta, followed(schedule, injected), rtol=0, atol=EXACT * np.abs(delta).max())
    before = np.concatenate([np.zeros_like(delta[:1]), delta[:-1]])
    passed_on = gaussian.step_gain(schedule, LAM)[:, None] * before
    sensitivity = gaussian.x0_sensitivity(schedule.alpha, schedule.sigma, LAM)[:, None]
    interaction = (SCALE - 1) * gaussian.injection_factor(schedule)[:, None, None] * sensitivity * before
    vectors = modes(run["decomposition"].injected.sel(arm="R4S32").transpose("step", ...))
    assert (norm(vectors - injected) / norm(injected)).max() < EXACT
    for name, want in {
        "injected_l2": norm(injected), "injected_mean_l2": norm(mean), "propagated_l2": norm(passed_on),
        "injected_x0_l2": norm(mean) / np.abs(gaussian.injection_factor(schedule))[:, None],
    }.items():  # fmt: skip
        np.testing.assert_allclose(metrics[name], want, rtol=EXACT, err_msg=name)
    # a difference of four states of this size keeps fewer digits; the other order of injection is injected + this
    np.testing.assert_allclose(
        metrics["interaction_l2"], norm(interaction), rtol=1e-9, atol=1e-13 * np.abs(delta).max()
    )
    np.testing.assert_allclose(metrics["injected_variance_l2"], norm(wider), rtol=EXACT, atol=1e-12)
    np.testing.assert_allclose(metrics["gain"][1:], norm(passed_on[1:]) / norm(before[1:]), rtol=EXACT)
    assert metrics["closure"].max() < 1e-12


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_table_of_cumulative_gains_as_the_tracer_measures_it(tmp_path, sampler):
    """One mode a sample, pushed in the first step alone; the gain of that step, which no error precedes, is on paper.

    The error in the prediction after the last step is that of the final state itself.
    """
    arm, three = "R4S32@steps=0:1", np.array([10.0, 1.0, 0.1])
    lam = np.resize(three, 64).reshape(SHAPE)
    exact = gaussian.gaussian_denoiser(lam)
    push = 1e3 * np.eye(64)[:3].reshape(3, *SHAPE)  # sample k along mode k, of variance three[k]
    prediction = "flow" if sampler == "flow" else "epsilon"
    denoiser = Analytic(exact, lambda x, *level: exact(x, *level) + push, shape=SHAPE, prediction=prediction)
    path = tracer.trace(
        denoiser, [arm], samples=3, batch_size=3, steps=STEPS, sampler=sampler, record=["decomposition"],
        out=tmp_path / "run",
    )  # fmt: skip
    run = tracer.open_run(path)
    metrics, schedule = run["metrics"].sel(arm=arm), schedule_of(run, sampler)
    gain = gaussian.step_gain(schedule, three)
    np.testing.assert_allclose(metrics.gain.values.T[1:], gain[1:], rtol=EXACT)
    raw = np.log10(np.concatenate([gain[:1], metrics.gain.values.T[1:]]))
    levels = (schedule.alpha, schedule.sigma), (schedule.alpha_after, schedule.sigma_after)
    before, after = (gaussian.variance(*level, three) for level in levels)
    found = {"raw": raw, "whitened": raw + 0.5 * np.log10(before / after)}
    if sampler == "ddpm":  # where D is the neutral coordinate
        sensitivity = schedule.alpha_after[0] * three / after[0], schedule.alpha[0] * three / before[0]
        errors = np.vstack([metrics.x0_l2.values.T[1:], metrics.delta_l2.values.T[-1:]])
        first = np.log10(gain[0] * sensitivity[0] / sensitivity[1])
        found["D"] = np.vstack([first, np.diff(np.log10(errors), axis=0)])
    for coordinate in [kind for name, kind in TABLE if name == sampler]:
        thirds = [part.sum(0) for part in np.split(found[coordinate], (83, 166))] + [found[coordinate].sum(0)]
        np.testing.assert_allclose(thirds, TABLE[sampler, coordinate], atol=0.0075, err_msg=coordinate)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_impulse_is_the_product_of_jacobians_times_its_injection(tmp_path, sampler):
    at = (0, 120, 249)
    arms = [f"R4S32@steps={j}:{j + 1}" for j in at]
    run, schedule = traced(tmp_path, sampler, arms, ("latents", "x0", "finals"))
    injected = sum(injections(run, schedule, step_noise(run, STEPS)))
    for j, arm in zip(at, arms, strict=True):
        carried = gaussian.final_gain(schedule, LAM)[j] * injected[j]
        found = modes(run["trajectory"].final_delta.sel(arm=arm))
        np.testing.assert_allclose(found, carried, rtol=0, atol=EXACT * np.abs(carried).max(), err_msg=arm)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_prefixes_end_where_paper_says_and_telescope_to_the_whole(tmp_path, sampler):
    ends = range(50, STEPS, 50)
    arms = ["R4S32", *(f"R4S32@steps=0:{end}" for end in ends), f"R4S32@steps=0:{STEPS}"]
    run, schedule = traced(tmp_path, sampler, arms, ("latents", "x0", "finals"))
    injected = sum(injections(run, schedule, step_noise(run, STEPS)))
    finals = modes(run["trajectory"].final_delta)
    at = dict(zip(run["trajectory"].arm.values.tolist(), finals, strict=True))
    for end in ends:
        want = followed(schedule, injected, range(end))[-1]
        np.testing.assert_allclose(at[f"R4S32@steps=0:{end}"], want, rtol=0, atol=EXACT * np.abs(finals).max())
    np.testing.assert_array_equal(at[f"R4S32@steps=0:{STEPS}"], at["R4S32"])
    added = np.diff([np.zeros_like(at["R4S32"]), *(at[arm] for arm in arms[1:])], axis=0)
    np.testing.assert_allclose(added.sum(0), at["R4S32"], rtol=0, atol=1e-12 * np.abs(finals).max())


def test_feedback_s_is_that_of_paper(tmp_path):
    """All 250 impulses and the whole: S below 1, because this mask pulls the prediction towards 0."""
    arms = ["R4S32", *(f"R4S32@steps={j}:{j + 1}" for j in range(STEPS))]
    run, schedule = traced(tmp_path, "ddim", arms, ("finals", "x0"), batch_size=2)
    injected = sum(injections(run, schedule, np.zeros((STEPS, 2, 64))))
    impulses = (gaussian.final_gain(schedule, LAM)[:, None] * injected).sum(0)
    want = norm(followed(schedule, injected)[-1]) / norm(impulses)
    sums = norm(sum(modes(runs.final_delta(run).sel(arm=arm)) for arm in arms[1:]))
    whole = norm(modes(runs.final_delta(run).sel(arm="R4S32")))
    np.testing.assert_allclose(whole / sums, want, rtol=EXACT)
    assert (want < 0.99).all()
