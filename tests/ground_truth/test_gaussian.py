"""The ground truth itself: the table of cumulative gains (docs/science.md), the decomposition, the bimodal case.

Simulated paths (`gaussian.paths`) are compared with closed forms derived on paper, within 1e-10 relative in float64.
"""

import numpy as np
import pytest

from tests.ground_truth import gaussian

LAM = np.array([10.0, 1.0, 0.1])
SAMPLERS = tuple(gaussian.SCHEDULES)
TABLE = {  # docs/science.md: log10 cumulative gain at 250 steps; early, middle, late third, all; modes lam 10, 1, 0.1
    ("ddpm", "raw"): [(-1.18, -1.22, -1.22), (-0.18, -0.73, -0.87), (0.16, -0.25, -1.10), (-1.20, -2.20, -3.20)],
    ("ddpm", "D"): [(0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)],
    ("ddim", "raw"): [(0.02, 0, 0), (0.27, 0, -0.07), (0.21, 0, -0.43), (0.50, 0, -0.51)],
    ("ddim", "whitened"): [(0, 0, 0), (0, 0, 0), (0, 0, -0.01), (0, 0, -0.01)],
    ("flow", "raw"): [(-0.01, -0.06, -0.07), (0.16, -0.08, -0.15), (0.35, 0.14, -0.30), (0.50, 0, -0.51)],
    ("flow", "whitened"): [(0, 0, 0), (0, 0, 0), (0, 0, -0.01), (0, 0, -0.01)],
}


def dense(sampler, steps=250, size=64, seed=3, **mask):
    """A dense 64-d system: random orthogonal axes, variances over two decades, an affine mask."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((size, size)))
    lam = np.geomspace(10, 0.1, size)
    covariance = axes @ np.diag(lam) @ axes.T

    def clean(x, alpha, sigma):
        return alpha * x @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(size)) @ covariance

    schedule = gaussian.SCHEDULES[sampler](steps)
    start, noise = rng.standard_normal((3, size)), rng.standard_normal((steps, 3, size))
    return schedule, clean, axes, lam, start, noise


@pytest.mark.parametrize(("sampler", "coordinate"), TABLE)
def test_the_table_of_cumulative_gains(sampler, coordinate):
    schedule = gaussian.SCHEDULES[sampler](250)
    gains = np.log10(gaussian.step_gain(schedule, LAM))
    before = gaussian.variance(schedule.alpha, schedule.sigma, LAM)
    after = gaussian.variance(schedule.alpha_after, schedule.sigma_after, LAM)
    if coordinate == "D":
        sensitivity = schedule.alpha[:, None] * LAM / before, schedule.alpha_after[:, None] * LAM / after
        gains += np.log10(sensitivity[1] / sensitivity[0])
    if coordinate == "whitened":
        gains += 0.5 * np.log10(before / after)
    thirds = [part.sum(0) for part in np.split(gains, (83, 166))] + [gains.sum(0)]
    np.testing.assert_allclose(thirds, TABLE[sampler, coordinate], atol=0.0075)  # two printed decimals


def test_the_whole_ddpm_gain_is_the_posterior_slope_and_its_prediction_gain_is_one():
    schedule = gaussian.ddpm(250)
    v = gaussian.variance(schedule.alpha, schedule.sigma, LAM)
    whole = gaussian.step_gain(schedule, LAM).prod(0)
    np.testing.assert_allclose(whole, schedule.alpha[0] * LAM / v[0], rtol=1e-10)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_secant_gain_injection_and_closure_of_a_dense_system_equal_the_closed_forms(sampler):
    schedule, clean, axes, lam, start, noise = dense(sampler)
    found = gaussian.paths(schedule, clean, gaussian.affine_mask(clean, 0.99, 0.02), start, noise)
    gains, factor = gaussian.step_gain(schedule, lam), gaussian.injection_factor(schedule)
    before = np.concatenate([np.zeros_like(found.delta[:1]), found.delta[:-1]]) @ axes
    np.testing.assert_allclose(found.propagated @ axes, gains[:, None] * before, rtol=0, atol=1e-10)
    pushed = factor[:, None, None] * (0.02 - 0.01 * found.x0_clean)
    np.testing.assert_allclose(found.injected, pushed, rtol=0, atol=1e-11 * np.abs(pushed).max())
    sensitivity = gaussian.x0_sensitivity(schedule.alpha, schedule.sigma, lam)
    interaction = -0.01 * factor[:, None, None] * sensitivity[:, None] * before
    np.testing.assert_allclose(found.interaction @ axes, interaction, rtol=0, atol=1e-11)
    parts = found.injected + found.propagated + found.interaction
    np.testing.assert_allclose(parts, found.delta, rtol=0, atol=1e-12)


def test_the_variance_part_of_an_injection_is_the_difference_of_noise_scales():
    schedule, clean, _, _, start, noise = dense("ddpm", steps=25)
    found = gaussian.paths(schedule, clean, clean, start, noise, fraction=0.5, masked_fraction=0.6)
    spread = gaussian.noise_deviation(schedule, 0.6) - gaussian.noise_deviation(schedule, 0.5)
    np.testing.assert_allclose(found.injected, spread[:, None, None] * noise, rtol=0, atol=1e-12)
    assert (found.injected[-1] == 0).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_impulse_ends_as_the_product_of_jacobians_times_its_injection(sampler):
    schedule, clean, axes, lam, start, noise = dense(sampler)
    masked = gaussian.affine_mask(clean, 0.9, 0.1)
    start, noise = 1e-3 * start, 1e-3 * noise  # small states, so that their difference keeps ten digits
    for step in (0, 120, 249):
        found = gaussian.paths(schedule, clean, masked, start, noise, window=range(step, step + 1))
        carried = gaussian.final_gain(schedule, lam)[step] * (found.injected[step] @ axes)
        np.testing.assert_allclose(found.delta[-1] @ axes, carried, rtol=0, atol=1e-10 * np.abs(carried).max())


def test_prefix_differences_telescope_to_the_whole_error_and_shifts_have_s_of_one():
    schedule, clean, _, _, start, noise = dense("ddim", steps=10)
    shifted = gaussian.affine_mask(clean, 1.0, 0.3)
    whole = gaussian.paths(schedule, clean, shifted, start, noise).delta[-1]
    ends = [gaussian.paths(schedule, clean, shifted, start, noise, window=range(k)).delta[-1] for k in range(11)]
    np.testing.assert_allclose(np.diff(ends, axis=0).sum(0), whole, atol=1e-12)
    single = [
        gaussian.paths(schedule, clean, shifted, start, noise, window=range(k, k + 1)).delta[-1] for k in range(10)
    ]
    np.testing.assert_allclose(np.sum(single, axis=0), whole, atol=1e-12)  # a linear map without feedback: S = 1


@pytest.mark.parametrize("step", [125, 150, 175])
def test_bimodal_kicks_keep_their_mean_while_their_rms_exceeds_the_null_5_to_13_times(step):
    schedule, denoise, count, kick = gaussian.ddpm(250), gaussian.bimodal_denoiser(1.0, 0.1), 20_000, 0.05
    rng = np.random.default_rng(1)
    x0 = rng.choice([-1.0, 1.0], count) + 0.1 * rng.standard_normal(count)
    x = schedule.alpha[step] * x0 + schedule.sigma[step] * rng.standard_normal(count)
    y = x + kick
    level = schedule.alpha[step], schedule.sigma[step]
    null = denoise(y, *level) - denoise(x, *level)
    for i in range(step, 250):
        z, level = rng.standard_normal(count), (schedule.alpha[i], schedule.sigma[i])
        x = gaussian.advance(schedule, i, x, denoise(x, *level), z)
        y = gaussian.advance(schedule, i, y, denoise(y, *level), z)
    final = y - x
    assert abs((final - null).mean()) < 2 * (final - null).std() / np.sqrt(count)
    assert 5 < np.sqrt((final**2).mean() / (null**2).mean()) < 13
    assert np.median(np.abs(final)) < 0.5 * np.median(np.abs(null))  # the typical path alone would hide it
