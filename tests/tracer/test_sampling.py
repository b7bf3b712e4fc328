import diffusers
import numpy as np
import pytest
import torch

from tests.oracles import respaced
from tracer.samplers import SAMPLERS, Prediction, SamplerError, noise_levels


def network(x, t):
    """A smooth, timestep-dependent stand-in for a network: epsilon and a variance fraction that varies."""
    return 0.8 * np.tanh(x * (0.5 + t / 1500)) + 0.1 * np.roll(x, 1, -1), np.sin(3 * x + t)


def sample(sampler, steps, x, noise, dtype):
    levels = noise_levels(sampler, steps, "epsilon")
    state = torch.from_numpy(x).to(dtype)
    for i in range(steps):
        eps, v = (torch.from_numpy(a).to(dtype) for a in network(state.double().numpy(), int(levels.timestep[i])))
        move = SAMPLERS[sampler].step(levels, i, state, [Prediction(eps, v)], [])
        state = move.land(torch.from_numpy(noise[i]).to(dtype))
    return state.double().numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("steps", [10, 250])
def test_ddpm_with_learned_variance_agrees_with_the_respaced_posterior(steps, dtype, tolerance):
    generator = np.random.default_rng(0)
    x, noise = generator.standard_normal((2, 3, 4, 4)), generator.standard_normal((steps, 2, 3, 4, 4))
    expected = respaced.ddpm(network, x, noise, steps)
    got = sample("ddpm", steps, x, noise, dtype)
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("steps", [50, 250])
def test_ddim_agrees_with_the_respaced_original(steps, dtype, tolerance):
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4))
    expected = respaced.ddim(network, x, steps)
    got = sample("ddim", steps, x, np.zeros((steps, 1)), dtype)
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < tolerance


def test_250_ddpm_steps_agree_with_diffusers():
    settings = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    scheduler = diffusers.DDPMScheduler(
        **settings, variance_type="learned_range", clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(250)
    levels = noise_levels("ddpm", 250, "epsilon", settings)
    assert levels.timestep.astype(int).tolist() == scheduler.timesteps.tolist()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ours = theirs = x
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        eps, v = (torch.from_numpy(a).float() for a in network(theirs.numpy(), int(t)))
        theirs = scheduler.step(
            torch.cat([eps, v], 1), t, theirs, generator=torch.Generator().manual_seed(i)
        ).prev_sample
        eps, v = (torch.from_numpy(a).float() for a in network(ours.numpy(), int(t)))
        ours = SAMPLERS["ddpm"].step(levels, i, ours, [Prediction(eps, v)], []).land(noise)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4  # diffusers' float32 tables: 3e-5 measured


@pytest.mark.parametrize(("steps", "prediction"), [(50, "epsilon"), (250, "v_prediction")])
def test_ddim_agrees_with_diffusers(steps, prediction):
    settings = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    scheduler = diffusers.DDIMScheduler(**settings, clip_sample=False, prediction_type=prediction)
    scheduler.set_timesteps(steps)
    levels = noise_levels("ddim", steps, prediction, settings)
    assert levels.timestep.astype(int).tolist() == scheduler.timesteps.tolist()
    ours = theirs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for i, t in enumerate(scheduler.timesteps):
        value = torch.from_numpy(network(theirs.numpy(), int(t))[0]).float()
        theirs = scheduler.step(value, t, theirs).prev_sample
        value = torch.from_numpy(network(ours.numpy(), int(t))[0]).float()
        ours = SAMPLERS["ddim"].step(levels, i, ours, [Prediction(value)], []).land(None)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


@pytest.mark.parametrize(
    ("sampler", "steps", "prediction", "said"),
    [
        ("euler", 10, "epsilon", "ddpm, ddim, flow"),
        ("flow", 10, "epsilon", "--sampler ddpm, ddim"),
        ("ddpm", 10, "flow", "--sampler flow"),
        ("ddpm", 0, "epsilon", "1 to 1000"),
        ("ddim", 1001, "epsilon", "1 to 1000"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused_with_what_to_type(sampler, steps, prediction, said):
    with pytest.raises(SamplerError, match=said):
        noise_levels(sampler, steps, prediction)
