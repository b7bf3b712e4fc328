"""The closed forms beside the steps, and a sampler and a model that another distribution brings."""

import numpy as np
import pytest
import torch

import tracer
from tests.builders.typed import trace
from tests.plugins import installed
from tracer.samplers import SAMPLERS, Prediction, noise_levels
from tracer.samplers.base import DDPM_BETAS, kept_signal

KIND = {"ddpm": "epsilon", "ddim": "v_prediction", "flow": "flow"}


@pytest.mark.parametrize("steps", [2, 10, 250])
@pytest.mark.parametrize("name", KIND)
def test_the_factors_are_those_of_the_steps_own_mean(name, steps):
    """Expected: x' = p x + q D read off the step itself, with predictions that stand for chosen x and D."""
    sampler = SAMPLERS[name]
    levels = noise_levels(sampler, steps, KIND[name])
    p, q = sampler.factors(levels)
    for i in range(steps):
        _, a, s = levels.level(i)

        def mean(x, x0, a=a, s=s, i=i):
            eps = (x - a * x0) / s
            value = {"epsilon": eps, "v_prediction": a * eps - s * x0, "flow": eps - x0}[KIND[name]]
            state, answer = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (x, value))
            return sampler.step(levels, i, state, [Prediction(answer)], []).mean.item()

        np.testing.assert_allclose(mean(1.0, 0.0), p[i], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(mean(0.0, 1.0), q[i], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", KIND)
def test_only_stochastic_samplers_have_a_spread(name):
    levels = noise_levels(name, 5, KIND[name])
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    moves = [SAMPLERS[name].step(levels, i, zero, [Prediction(zero)], []) for i in range(5)]
    assert [move.std is not None for move in moves] == [SAMPLERS[name].stochastic] * 4 + [False]


def test_the_training_noise_is_that_of_ddpm():
    """Ho et al. 2020, section 4: 1000 betas, linear from 1e-4 to 0.02; the last alpha^2 is about 4e-5."""
    kept = kept_signal()
    assert (kept == kept_signal(DDPM_BETAS)).all()
    np.testing.assert_allclose(1 - kept[0], 1e-4, rtol=1e-9)
    np.testing.assert_allclose(1 - kept[1:] / kept[:-1], np.linspace(1e-4, 0.02, 1000)[1:], rtol=1e-9)
    assert 3e-5 < kept[-1] < 5e-5


@pytest.fixture
def plugins():
    with installed(tracer.SAMPLERS, tracer.MODELS):
        yield


def test_what_another_distribution_brings_is_listed_behind_what_ships(plugins):
    assert list(tracer.SAMPLERS) == ["ddpm", "ddim", "flow", "dpmpp-2m", "heun"]
    assert list(tracer.MODELS) == ["dit", "sd3", "sdxl", "pipeline", "gaussian"]
    assert tracer.load("gaussian", device="cpu", variance=0.5).checkpoint["variance"] == 0.5
    with pytest.raises(tracer.SamplerError, match="use --sampler ddpm, ddim, dpmpp-2m, heun"):
        noise_levels("flow", 5, "epsilon")


def test_a_model_and_a_sampler_from_outside_run_from_the_command_line_and_the_run_is_read_without_them(tmp_path):
    """In a process of its own: `tests/test_extensions.py`."""
    words = ["run", "--model", "gaussian", "--sampler", "heun", "--mask", "R4S32", "--samples", 2]
    with installed(tracer.SAMPLERS, tracer.MODELS):
        done = trace(*words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "2 samples x 6 heun steps" in done.stdout
    run = tracer.open_run(tmp_path / "run")
    assert run.attrs["sampler"] == "heun"
    assert run["metrics"].arm.values.tolist() == ["clean", "R4S32", "full"]
    assert (run["metrics"].delta_l2.sel(arm="R4S32") > 0).all()
    assert "gaussian" not in trace("models").stdout
