"""What a scheduler's steps were seen to do: factors, noise, history; and noise that is handed to it."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from tests.tracer.scheduler_cases import BY_NAME, HISTORY, VP, Case, landed, network, step
from tests.tracer.test_levels import NAMES, levels_of, shapes_of
from tracer.denoisers.pipeline.conduct import Conduct, conduct
from tracer.denoisers.pipeline.draws import drawn_from
from tracer.denoisers.pipeline.levels import prediction_of, schedule
from tracer.denoisers.pipeline.predictions import epsilon_and_x0
from tracer.samplers import SAMPLERS
from tracer.samplers.base import SamplerError

STOCHASTIC = {
    "CMStochasticIterativeScheduler", "CogVideoXDPMScheduler", "DDPMParallelScheduler", "DDPMScheduler",
    "DDPMWuerstchenScheduler", "EulerAncestralDiscreteScheduler", "FlowMatchLCMScheduler",
    "KDPM2AncestralDiscreteScheduler", "LCMScheduler", "LTXEulerAncestralRFScheduler", "SASolverScheduler",
    "SCMScheduler", "TCDScheduler", "UnCLIPScheduler",
}  # fmt: skip
_found: dict[str, Conduct] = {}


def conduct_of(name: str) -> Conduct:
    case = BY_NAME[name]
    if name not in _found:
        _found[name] = conduct(case.make(), case.calls(), shapes_of(case))
    return _found[name]


def reads_history(case: Case) -> bool:
    first_order = case.config.get("solver_order") == 1 or case.config.get("scheduler_type") == "euler"
    return case.kind in HISTORY and not first_order


@pytest.mark.parametrize("name", NAMES)
def test_noise_and_history_are_found_by_trying(name):
    case, found = BY_NAME[name], conduct_of(name)
    noisy = "sde-" in case.config.get("algorithm_type", "") or case.config.get("stochastic_sampling", False)
    assert found.stochastic == (case.kind in STOCHASTIC or noisy)
    assert found.history == reads_history(case)
    assert found.bent == ""
    assert np.isnan(found.state_factor).all() == np.isnan(found.prediction_factor).all() == found.history


def ancestral(levels):
    """Euler down to s'^2 / s, from where the step's noise leads up to s' again."""
    s, s_next = levels.sigma[:-1], levels.sigma[1:]
    return (s_next / s) ** 2, 1 - (s_next / s) ** 2


def euler(levels):
    s, s_next = levels.sigma[:-1], levels.sigma[1:]
    return s_next / s, 1 - s_next / s


def renoised(levels):
    """LCM, SCM and stochastic flow: the clean image, and new noise."""
    return np.zeros(levels.steps), levels.alpha[1:]


def lambda_euler(levels):
    """DPM-Solver++(1) is DDIM (Lu et al. 2022, section 4)."""
    return SAMPLERS["ddim"].affine(levels)


FACTORS = {
    "DDIM-clip_sample=False-epsilon": SAMPLERS["ddim"].affine,
    "DDIM-clip_sample=False-v_prediction": SAMPLERS["ddim"].affine,
    "DDIM-clip_sample=False-sample": SAMPLERS["ddim"].affine,
    "DDIM-clip_sample=False-set_alpha_to_one=False-steps_offset=1-epsilon": SAMPLERS["ddim"].affine,
    "DDIM-clip_sample=False-rescale_betas_zero_snr=True-trailing-v_prediction": SAMPLERS["ddim"].affine,
    "CogVideoXDDIM-snr_shift_scale=3.0-rescale_betas_zero_snr=True-trailing-v_prediction": SAMPLERS["ddim"].affine,
    "DDPM-clip_sample=False-epsilon": SAMPLERS["ddpm"].affine,
    "DDPM-clip_sample=False-v_prediction": SAMPLERS["ddpm"].affine,
    "DDPM-clip_sample=False-sample": SAMPLERS["ddpm"].affine,
    "DDPM-learned_range-clip_sample=False": SAMPLERS["ddpm"].affine,
    "UnCLIP-clip_sample=False": SAMPLERS["ddpm"].affine,
    "DPMSolverMultistep-dpmsolver++-solver_order=1-epsilon": lambda_euler,
    "DPMSolverSinglestep-dpmsolver++-solver_order=1-v_prediction": lambda_euler,
    "EulerDiscrete-epsilon": euler,
    "EulerDiscrete-v_prediction": euler,
    "EulerDiscrete-sample": euler,
    "EDMEuler-epsilon": euler,
    "EDMEuler-v_prediction": euler,
    "EulerAncestralDiscrete-epsilon": ancestral,
    "EulerAncestralDiscrete-v_prediction": ancestral,
    "FlowMatchEulerDiscrete-shift=3.0": SAMPLERS["flow"].affine,
    "FlowMatchEulerDiscrete-use_dynamic_shifting=True-base_shift=0.4": SAMPLERS["flow"].affine,
    "FlowMatchEulerDiscrete-stochastic_sampling=True": renoised,
    "FlowMatchEulerDiscrete-invert_sigmas=True": SAMPLERS["flow"].affine,
    "FlowMatchLCM-shift=3.0": renoised,
    "FlowMapEulerDiscrete-shift=3.0": SAMPLERS["flow"].affine,
    "MiniMaxH3": SAMPLERS["flow"].affine,
    "SCM-sigma_data=0.6": renoised,
}


@pytest.mark.parametrize("name", FACTORS)
def test_factors_are_the_closed_forms(name):
    found, (state, prediction) = conduct_of(name), FACTORS[name](levels_of(name))
    tolerance = 6e-4 if "UnCLIP" in name else 2e-5  # its float32 tables lose the last step
    np.testing.assert_allclose(found.state_factor, state, atol=tolerance)
    np.testing.assert_allclose(found.prediction_factor, prediction, atol=tolerance)
    assert found.no_null == ""


@pytest.mark.parametrize("name", [name for name in NAMES if not reads_history(BY_NAME[name])])
def test_factors_make_the_mean_of_the_real_step(name):
    """x' = p x + q D of any state and answer, with D as `epsilon_and_x0` says and the noise zero."""
    case, found, levels = BY_NAME[name], conduct_of(name), levels_of(name)
    kind = prediction_of(case.make(), case.calls(), shapes_of(case))
    scheduler = case.make()
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(0)) * float(levels.sigma[0])
    for i, call in enumerate(case.calls()):
        told = network(case, x, i)
        _, x0 = epsilon_and_x0(scheduler, kind, levels.level(i), x, told)
        with drawn_from(scheduler, torch.zeros):
            moved = landed(step(scheduler, call, told, x))
        mean = float(found.state_factor[i]) * x + float(found.prediction_factor[i]) * x0
        torch.testing.assert_close(moved, mean, rtol=0, atol=5e-5 * float(x0.abs().max() + x.abs().max()))
        x = moved


def test_eta_and_churn_of_the_call_count():
    """The arguments that a pipeline hands to `step` are part of what the step does."""
    case = Case("DDIMScheduler", {**VP, "clip_sample": False}, call=lambda scheduler, i: {"eta": 1.0})
    found, plain = conduct(case.make(), case.calls()), conduct(case.make(), case.make().timesteps)
    assert (found.stochastic, plain.stochastic) == (True, False)
    ddpm = SAMPLERS["ddpm"].affine(levels_of("DDIM-clip_sample=False-epsilon"))  # Song et al. 2021, section 4.1
    np.testing.assert_allclose(found.state_factor, ddpm[0], atol=1e-5)
    np.testing.assert_allclose(found.prediction_factor, ddpm[1], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("DDIMScheduler", {"clip_sample": True}, "clip_sample"),
        ("DDPMScheduler", {"thresholding": True, "clip_sample": False}, "thresholding"),
        ("CMStochasticIterativeScheduler", {"clip_denoised": True}, "clip_denoised"),
        ("LCMScheduler", {"clip_sample": True, "clip_sample_range": 10.0}, "clip_sample"),
        ("DPMSolverMultistepScheduler", {"thresholding": True, "solver_order": 1}, "thresholding"),
    ],
)
def test_a_step_that_clips_has_no_factors_and_says_which_setting_does_it(kind, settings, named):
    case = Case(kind, settings)
    found = conduct(case.make(), case.calls())
    assert np.isnan(found.state_factor).all()
    assert np.isnan(found.prediction_factor).all()
    assert f"{kind} changes clean images beyond 1 ({named})" in found.no_null
    assert f"{named}=False" in found.no_null


def test_a_second_order_solver_takes_back_in_the_next_step_a_third_of_what_a_changed_prediction_injects():
    """docs/science.md, "What a history changes": 3/2 q now and -1/2 q' in the next step, at levels even in log-SNR."""
    case = Case("DPMSolverMultistepScheduler", {**VP, "use_exponential_sigmas": True, "prediction_type": "sample"})
    _, q = SAMPLERS["ddim"].affine(schedule(case.make(), case.calls()))
    scheduler, nothing, landings = case.make(), torch.zeros(case.shape), []
    for i, call in enumerate(case.calls()):
        changed = torch.ones(case.shape) if i == 1 else nothing
        landings.append(float(landed(step(scheduler, call, changed, nothing)).mean()))
    np.testing.assert_allclose(landings, [0, 1.5 * q[1], -0.5 * q[2], 0, 0], atol=1e-5)


def test_why_there_is_no_null_says_what_history_does():
    found = conduct_of("DPMSolverMultistep-dpmsolver++-solver_order=2-epsilon")
    assert found.no_null == (
        "DPMSolverMultistepScheduler reads what earlier steps left behind, so an injection enters more than one state"
    )


@pytest.mark.parametrize("name", [name for name in NAMES if BY_NAME[name].kind in STOCHASTIC | {"DDIMScheduler"}])
def test_noise_comes_from_what_is_handed_in_and_no_generator_moves(name):
    case = BY_NAME[name]
    shapes: list[tuple[int, ...]] = []

    def run(draw):
        scheduler, before = case.make(), None
        x = torch.ones(case.shape)
        for i, call in enumerate(case.calls()):
            with drawn_from(scheduler, draw):
                before = step(scheduler, call, network(case, x, i), x, before)
            x = landed(before)
        return x

    def draw(shape):
        shapes.append(shape)
        return torch.full(shape, 0.5, dtype=torch.float64)

    there = torch.get_rng_state()
    first = run(draw)
    assert torch.equal(first, run(draw))
    assert first.dtype == torch.float32
    assert torch.equal(there, torch.get_rng_state())
    assert bool(shapes) == conduct_of(name).stochastic
    assert set(shapes) <= {case.shape}
    if shapes:
        assert not torch.equal(first, run(torch.zeros))
        module = __import__(type(case.make()).__module__, fromlist=["randn_tensor"])
        assert module.randn_tensor is randn_tensor


def test_the_stock_function_is_back_after_an_error():
    scheduler = BY_NAME["DDPM-clip_sample=False-epsilon"].make()
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    with pytest.raises(TypeError), drawn_from(scheduler, torch.zeros):
        scheduler.step(module.randn_tensor is randn_tensor)
    assert module.randn_tensor is randn_tensor


class OwnNoise(diffusers.DDPMScheduler):
    """Draws with torch.randn, from a generator that is handed to it or from torch's own."""

    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        return (sample + torch.randn(sample.shape, generator=generator),)


class BrownianNoise(diffusers.DDPMScheduler):
    """Draws from a tree with a seed of its own, as the schedulers do that use torchsde."""

    def step(self, model_output, timestep, sample, return_dict=True):
        tree = torch.Generator().manual_seed(int(timestep))
        return (sample + torch.randn(sample.shape, generator=tree),)


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_a_scheduler_that_draws_elsewhere_is_refused_by_name(generator):
    scheduler = OwnNoise()
    scheduler.set_timesteps(3)
    with (
        pytest.raises(SamplerError, match="OwnNoise draws its noise in a way of its own"),
        drawn_from(scheduler, torch.zeros, [generator] if generator else []),
    ):
        scheduler.step(torch.zeros(1, 1), 0, torch.zeros(1, 1), generator)


@pytest.mark.parametrize("kind", [OwnNoise, BrownianNoise])
def test_trying_finds_noise_that_is_drawn_elsewhere(kind):
    scheduler = kind()
    scheduler.set_timesteps(3)
    with pytest.raises(SamplerError, match=f"{kind.__name__} draws its noise in a way of its own"):
        conduct(scheduler, scheduler.timesteps)
