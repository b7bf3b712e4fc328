"""Levels, readings and factors of every scheduler: against closed forms, and against the scheduler's own steps."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from tests.tracer.scheduler_cases import BY_NAME, CASES, VP, Case, landed, network, step
from tests.tracer.scheduler_levels import CLOSED, SD
from tracer.denoisers.pipeline.conduct import conduct
from tracer.denoisers.pipeline.draws import drawn_from
from tracer.denoisers.pipeline.levels import prediction_of, schedule
from tracer.denoisers.pipeline.predictions import answer, epsilon_and_x0
from tracer.denoisers.pipeline.stepping import HANDED_ON, Shapes
from tracer.samplers.base import Level, SamplerError, Schedule

REFUSED = {
    "IPNDMScheduler": "does not say at which noise level",
    "PiflowScheduler": "does not say what its network predicts",
    "HeliosDMDScheduler": "could not be tried",
    "DDIMInverseScheduler": "has no noise at timestep 0",
    "RePaintScheduler": "does not say what its network predicts",
}
"""Schedulers whose levels cannot be found, and what is said of them."""
NAMES = [name for name, case in BY_NAME.items() if case.kind not in REFUSED]


def shapes_of(case: Case) -> Shapes:
    state = torch.zeros(case.shape)
    return Shapes.like(state, network(case, state, 0))


_found: dict[str, Schedule] = {}


def levels_of(name: str) -> Schedule:
    case = BY_NAME[name]
    if name not in _found:
        _found[name] = schedule(case.make(), case.calls(), shapes_of(case))
    return _found[name]


@pytest.mark.parametrize("name", CLOSED)
def test_levels_are_the_closed_forms(name):
    found, (alpha, sigma) = levels_of(name), CLOSED[name]
    assert found.alpha.dtype == found.sigma.dtype == found.timestep.dtype == np.float64
    np.testing.assert_allclose(found.alpha[:-1], alpha, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(found.sigma[:-1] ** 2, sigma**2, rtol=6e-5, atol=1.2e-7)  # float32 tables of alpha^2
    np.testing.assert_array_equal(
        found.timestep, [float(torch.as_tensor(call["timestep"]).flatten()[0]) for call in BY_NAME[name].calls()]
    )


def ending(name: str) -> tuple[float, float]:
    """Where the settings of a case say that it ends."""
    case = BY_NAME[name]
    if case.kind == "DDPMWuerstchenScheduler":
        return 0.9999**0.5, 0.000298
    if case.kind == "DEISMultistepScheduler" and "flow_shift" in case.config:  # its last step has no length
        return levels_of(name).alpha[-2], levels_of(name).sigma[-2]
    stops = case.config.get("final_sigmas_type") == "sigma_min" or case.config.get("set_alpha_to_one") is False
    if stops or case.kind in ("PNDMScheduler", "TCDScheduler", "SASolverScheduler", "DEISMultistepScheduler"):
        return float(SD[0] ** 0.5), float((1 - SD[0]) ** 0.5)
    return 1.0, 0.0


@pytest.mark.parametrize("name", [name for name in NAMES if "Inverse" not in name])
def test_the_last_level_is_where_the_settings_say_and_exactly_clean_where_it_is_clean(name):
    last, found = ending(name), levels_of(name)
    if last == (1.0, 0.0):
        assert (found.alpha[-1], found.sigma[-1]) == last
    np.testing.assert_allclose((found.alpha[-1], found.sigma[-1]), last, atol=1e-5)


def exact_run(case: Case, found: Schedule, kind: str, noise_too: bool):
    """(state, closed form) before every step and at the end, in float32, of a network that knows x0 and n.

    Without `noise_too` n is zero, and so is the noise of the steps.
    """
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(case.shape, generator=generator) * 2 - 1
    n = torch.randn(case.shape, generator=generator) * noise_too
    scheduler, before = case.make(), None
    x = found.alpha[0] * x0 + found.sigma[0] * n
    for i, call in enumerate(case.calls()):
        level = found.level(i)
        yield x, level.alpha * x0 + level.sigma * n
        told = answer(scheduler, kind, level, x0, n)
        if case.output_channels > 4:
            told = torch.cat([told, torch.zeros_like(told)], 1)
        with drawn_from(scheduler, torch.zeros):
            before = step(scheduler, call, told, x.float(), before)
        x = landed(before)
    yield x, found.alpha[-1] * x0 + found.sigma[-1] * n


@pytest.mark.parametrize(
    "name", [name for name in NAMES if BY_NAME[name].config.get("skip_prk_steps") is None or "v_" not in name]
)
def test_an_exact_network_stays_on_the_levels_through_all_steps_of_the_real_scheduler(name):
    """Of all solvers and orders: their steps are exact for a prediction that stays the same, if it is read aright.

    With noise in the steps only the signal is known: alpha x0. PNDM is not exact with velocities: it adds up those of
    several levels.
    """
    case, found = BY_NAME[name], levels_of(name)
    kind = prediction_of(case.make(), case.calls(), shapes_of(case))
    deterministic = not conduct(case.make(), case.calls(), shapes_of(case)).stochastic
    tolerance = {"LCMScheduler": 3e-4, "UnCLIPScheduler": 6e-4}.get(case.kind, 1e-4)  # boundary scalings; float32
    for x, expected in exact_run(case, found, kind, deterministic):
        scale = float(expected.abs().max()) + 1
        torch.testing.assert_close(x.double(), expected.double(), rtol=0, atol=tolerance * scale)


def own_reading(case: Case, scheduler, returned, told, x):
    """The clean image, or (None, noise), that the scheduler says it read the network's answer for; before it steps."""
    if (clean := getattr(returned, "pred_original_sample", None)) is not None:
        return clean, None
    if case.kind == "CogVideoXDPMScheduler":
        return returned[1], None
    if case.kind == "LCMScheduler":  # after its boundary scalings
        return returned.denoised, None
    if not hasattr(scheduler, "convert_model_output"):
        return None
    converted = scheduler.convert_model_output(told, sample=x)
    noise_solver = (
        case.kind == "DEISMultistepScheduler"
        or case.config.get("algorithm_type") in ("dpmsolver", "noise_prediction")
        or (case.config.get("predict_x0") is False)
    )
    return (None, converted) if noise_solver else (converted, None)


SAYS_NOTHING = {
    "CMStochasticIterativeScheduler", "DDPMWuerstchenScheduler", "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler", "PNDMScheduler", "TCDScheduler",
}  # fmt: skip
"""Schedulers that do not say what they read."""


@pytest.mark.parametrize("name", NAMES)
def test_noise_and_clean_image_are_what_the_scheduler_itself_reads(name):
    case, found = BY_NAME[name], levels_of(name)
    kind = prediction_of(case.make(), case.calls(), shapes_of(case))
    scheduler, before = case.make(), None
    x = found.sigma[0] * torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    x = x.float()
    for i, call in enumerate(case.calls()):
        told, level = network(case, x, i), found.level(i)
        eps, x0 = epsilon_and_x0(scheduler, kind, level, x, told)
        assert eps.shape == x0.shape == x.shape
        assert eps.dtype == x0.dtype == torch.float32
        torch.testing.assert_close(
            level.alpha * x0 + level.sigma * eps, x, rtol=0, atol=2e-5 * float(x.abs().max() + 1)
        )
        twin = step(scheduler, {**call, "return_dict": True}, told, x, before)
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index -= 1
        said = own_reading(case, scheduler, twin, told, x)
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index += 1
        assert (said is None) == (case.kind in SAYS_NOTHING)
        if said is not None:
            mine, theirs = (x0, said[0]) if said[0] is not None else (eps, said[1])
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max() + 1))
        before, x = twin, landed(twin)


def test_clipping_acts_after_the_reading_and_not_in_it():
    """What a step clips is the clean image that `epsilon_and_x0` says; the levels are those without clipping."""
    for kind, settings in (
        ("DDIMScheduler", {"clip_sample": True}),
        ("DDPMScheduler", {"clip_sample": True}),
        ("DDIMScheduler", {"clip_sample": False, "thresholding": True, "sample_max_value": 3.0}),
        ("UniPCMultistepScheduler", {"thresholding": True, "sample_max_value": 3.0}),
    ):
        case, free = Case(kind, {**VP, **settings}), Case(kind, {**VP, "clip_sample": False} if "U" not in kind else VP)
        levels, without = (schedule(c.make(), c.calls()) for c in (case, free))
        np.testing.assert_allclose(levels.alpha, without.alpha, atol=1e-6)
        np.testing.assert_allclose(levels.sigma, without.sigma, atol=1e-6)
        scheduler, call = case.make(), case.calls()[0]
        x = 5 * torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
        _, x0 = epsilon_and_x0(scheduler, "epsilon", levels.level(0), x, network(case, x, 0))
        assert x0.abs().max() > 3
        returned = step(scheduler, call, network(case, x, 0), x)
        said = scheduler.model_outputs[-1] if "U" in kind else returned.pred_original_sample
        limited = scheduler._threshold_sample(x0) if settings.get("thresholding") else x0.clamp(-1, 1)
        torch.testing.assert_close(said, limited, rtol=0, atol=1e-5)


def test_learned_variance_is_left_out_and_a_foreign_shape_is_refused():
    case = BY_NAME["DDPM-learned_range-clip_sample=False"]
    x = torch.ones(2, 4, 3, 5)
    level = levels_of(case.name).level(1)
    wide = torch.arange(8.0).reshape(1, 8, 1, 1).expand(2, 8, 3, 5)
    eps, _ = epsilon_and_x0(case.make(), "epsilon", level, x, wide)
    assert torch.equal(eps, wide[:, :4])
    packed = epsilon_and_x0(case.make(), "flow", Level(1, 0.5, 0.5), torch.zeros(2, 6, 4), torch.ones(2, 6, 8))[1]
    assert torch.equal(packed, torch.full((2, 6, 4), -0.5))
    with pytest.raises(SamplerError, match=r"\(2, 3, 3, 5\), the state \(2, 4, 3, 5\)"):
        epsilon_and_x0(case.make(), "epsilon", level, x, wide[:, :3])


PREDICTED = {
    "FlowMatchEulerDiscrete": "flow",
    "FlowMatchEulerDiscrete-invert_sigmas=True": "flow_to_data",
    "FlowMatchLCM-shift=3.0": "flow",
    "FlowMapEulerDiscrete-shift=3.0": "flow",
    "LTXEulerAncestralRF": "flow",
    "MiniMaxH3": "flow_to_data",
    "DDPMWuerstchen": "epsilon",
    "UniPCMultistep-use_flow_sigmas=True-flow_prediction-flow_shift=5.0": "flow",
    "SCM": "v_prediction",
    "EDMEuler-epsilon": "edm",
    "CMStochasticIterative-clip_denoised=False": "consistency",
}


@pytest.mark.parametrize("name", PREDICTED)
def test_what_the_network_is_asked_for_where_the_scheduler_has_no_word_for_it(name):
    case = BY_NAME[name]
    assert prediction_of(case.make(), case.calls()) == PREDICTED[name]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_levels_is_refused_by_name(kind):
    case = next(case for case in CASES if case.kind == kind)
    with pytest.raises(SamplerError, match=f"{kind} {REFUSED[kind]}|step of {kind} could not"):
        schedule(case.make(), case.calls(), shapes_of(case))


def test_unknown_words_and_missing_ones_are_refused_by_name():
    scheduler = diffusers.DDIMScheduler(prediction_type="score")
    scheduler.set_timesteps(3)
    with pytest.raises(SamplerError, match="DDIMScheduler has prediction_type='score': known are epsilon, v_pred"):
        schedule(scheduler, scheduler.timesteps)


def test_levels_are_those_of_the_timesteps_that_are_run_image_to_image_and_an_early_end():
    for kind in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler", "HeunDiscreteScheduler"):
        case = Case(kind, VP)
        whole, calls = schedule(case.make(), case.calls()), case.calls()
        for first, told in ((2, True), (2, False), (0, False)):
            scheduler = case.make()
            first *= scheduler.order
            if told and hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(first)
            part = schedule(scheduler, calls[first:-1])
            np.testing.assert_array_equal(part.sigma[:-1], whole.sigma[first:-2])
            np.testing.assert_allclose(part.sigma[-1], whole.sigma[-2], rtol=1e-5)
            np.testing.assert_allclose(part.alpha, whole.alpha[first:-1], rtol=1e-5)


def test_levels_are_read_from_the_scheduler_as_it_stands_and_leave_it_as_it_is():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.1])
    scheduler.step = lambda *args, **kwargs: pytest.fail("the hook of a running pipeline was called")
    before = {name: value for name, value in vars(scheduler).items()}
    np.testing.assert_allclose(schedule(scheduler, scheduler.timesteps).sigma, [1, 0.6, 0.1, 0], rtol=1e-6)
    assert vars(scheduler) == before


@pytest.mark.parametrize("name", ["UniPCMultistep-epsilon", "DDPM-learned_range-clip_sample=False"])
def test_timesteps_alone_do_where_a_step_needs_no_more(name):
    case = BY_NAME[name]
    alone = schedule(case.make(), case.make().timesteps)
    assert np.array_equal(alone.alpha, levels_of(name).alpha)


def test_calls_of_real_states_serve_for_small_ones():
    """What a pipeline really hands to a step: tensors of the states' size, a generator, no output classes."""
    case = BY_NAME["CogVideoXDPM-v_prediction-snr_shift_scale=1.0"]
    real = [
        {
            **call,
            HANDED_ON: torch.ones(1, 3, 4, 8, 8) if i else None,
            "generator": torch.Generator(),
            "return_dict": False,
        }
        for i, call in enumerate(case.calls())
    ]
    assert np.array_equal(schedule(case.make(), real, Shapes((1, 3, 4, 2, 2))).sigma, levels_of(case.name).sigma)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(3)
    calls = [{"timestep": t, "per_token_timesteps": torch.ones(1, 64), "return_dict": False} for t in flow.timesteps]
    assert np.array_equal(schedule(flow, calls).sigma, schedule(flow, flow.timesteps).sigma)
