"""The flow-matching sampler against diffusers' scheduler, k-diffusion's formulation, and closed forms."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tracer.samplers import Prediction, SamplerError, epsilon_and_x0, noise_levels
from tracer.samplers.flow import step


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Some smooth, nonlinear, time-dependent network."""
    return torch.tanh(2 * x) - sigma * x + torch.sin(3 * x * sigma)


def run(steps: int, shift: float, x: torch.Tensor) -> list[torch.Tensor]:
    levels = noise_levels("flow", steps, "flow", {"shift": shift})
    states = []
    for i in range(steps):
        move = step(levels, i, x, [Prediction(velocity(x, levels.timestep[i] / 1000))])
        assert move.std is None  # deterministic: noise can have no effect
        states.append(x := move.land(None))
    return states


def start(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 7, 28])
def test_every_step_agrees_with_the_diffusers_scheduler(steps, shift):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(steps)
    x = start(torch.float32)
    levels = noise_levels("flow", steps, "flow", {"shift": shift})
    np.testing.assert_allclose(levels.timestep, reference.timesteps, rtol=1e-5)
    np.testing.assert_allclose(levels.sigma, reference.sigmas, rtol=1e-5)
    for mine in run(steps, shift, x):
        i = reference.step_index or 0
        x = reference.step(velocity(x, levels.timestep[i] / 1000), reference.timesteps[i], x).prev_sample
        torch.testing.assert_close(mine, x, rtol=2e-5, atol=2e-6)


def test_it_is_the_k_diffusion_euler_sampler_on_the_denoiser_x_minus_sigma_v():
    """d = (x - D) / sigma; x += d (sigma' - sigma): `sample_euler` without churn (Karras et al. 2022, alg. 1)."""
    x = start()
    levels = noise_levels("flow", 11, "flow", {"shift": 3.0})
    for i, mine in enumerate(run(11, 3.0, x)):
        s, s_next = float(levels.sigma[i]), float(levels.sigma[i + 1])
        denoised = x - s * velocity(x, s)
        x = x + (x - denoised) / s * (s_next - s)
        torch.testing.assert_close(mine, x, rtol=1e-12, atol=1e-13)


def test_the_shift_maps_sigma_to_shift_sigma_over_one_plus_shift_minus_one_sigma():
    """Esser et al. 2024, eq. 23, on levels that are even between the shifted ends, as diffusers spaces them."""
    plain = noise_levels("flow", 1000, "flow", {"shift": 1.0}).sigma[:-1]
    np.testing.assert_allclose(plain, np.arange(1000, 0, -1) / 1000, rtol=1e-12)
    levels = noise_levels("flow", 20, "flow", {"shift": 3.0})
    even = np.linspace(1.0, 3 * 0.001 / (1 + 2 * 0.001), 20)
    np.testing.assert_allclose(levels.sigma[:-1], 3 * even / (1 + 2 * even), rtol=1e-12)
    np.testing.assert_allclose(levels.alpha + levels.sigma, 1, rtol=1e-12)


def test_a_straight_flow_is_sampled_exactly_in_any_number_of_steps():
    """With the true velocity n - x0 of a single image, every Euler path is the straight line to x0."""
    noise, x0 = start(), torch.full((2, 3, 4, 4), 0.3, dtype=torch.float64)
    for steps in (1, 5):
        levels, x = noise_levels("flow", steps, "flow"), noise
        for i in range(steps):
            x = step(levels, i, x, [Prediction(noise - x0)]).land(None)
        torch.testing.assert_close(x, x0, rtol=1e-12, atol=1e-12)


def test_noise_and_image_are_read_off_a_velocity():
    noise, x0 = start(), start().flip(0) * 0.5
    levels = noise_levels("flow", 9, "flow")
    x = levels.alpha[4] * x0 + levels.sigma[4] * noise
    eps, image = epsilon_and_x0(levels, 4, x, noise - x0)
    torch.testing.assert_close(eps, noise, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(image, x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("sampler", "prediction"), [("ddim", "flow"), ("ddpm", "flow"), ("flow", "epsilon")])
def test_a_sampler_that_does_not_fit_the_prediction_is_refused(sampler, prediction):
    """Samplers built from a flow configuration silently read a velocity as noise in diffusers."""
    with pytest.raises(SamplerError, match="does not fit"):
        noise_levels(sampler, 20, prediction)


def test_more_steps_than_training_timesteps_are_refused():
    with pytest.raises(SamplerError, match="1 to 1000 steps"):
        noise_levels("flow", 1001, "flow")
