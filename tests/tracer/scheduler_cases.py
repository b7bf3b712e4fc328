"""Every scheduler of diffusers that is stepped with a state and a model output, in the settings that matter here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import diffusers
import torch
from torch import Tensor

STEPS = 5
VP = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""The noise of Stable Diffusion."""
SHAPE = (2, 4, 3, 5)
"""Of the states, [sample, channel, y, x]."""


@dataclass(frozen=True)
class Case:
    """A scheduler class in one setting; `call` makes the arguments of a step besides output, sample and timestep.

    unused: how many timesteps at the end stand for the finished sample.
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    timesteps: Mapping[str, Any] = field(default_factory=lambda: {"num_inference_steps": STEPS})
    call: Callable[[Any, int], Mapping[str, Any]] = lambda scheduler, i: {}
    output_channels: int = 4
    shape: tuple[int, ...] = SHAPE
    unused: int = 0

    @cached_property
    def name(self) -> str:
        settings = [value if isinstance(value, str) else f"{key}={value}" for key, value in self.config.items()]
        kept = [setting for key, setting in zip(self.config, settings, strict=True) if key not in VP]
        return "-".join([self.kind.removesuffix("Scheduler"), *kept])

    @cached_property
    def _made(self) -> Any:
        scheduler = getattr(diffusers.schedulers, self.kind)(**self.config)
        scheduler.set_timesteps(**self.timesteps)
        return scheduler

    def make(self) -> Any:
        """A scheduler before its first step."""
        return copy.deepcopy(self._made)

    def calls(self) -> list[dict[str, Any]]:
        """The arguments of every step besides the model's output and the sample."""
        scheduler = self.make()
        timesteps = scheduler.timesteps[: len(scheduler.timesteps) - self.unused]
        return [{"timestep": t, **self.call(scheduler, i)} for i, t in enumerate(timesteps)]


def _look_back(scheduler: Any, i: int) -> dict[str, Any]:
    return {"timestep_back": scheduler.timesteps[i - 1] if i else None, "old_pred_original_sample": None}


def _look_ahead(scheduler: Any, i: int) -> dict[str, Any]:
    return {"prev_timestep": scheduler.timesteps[i + 1] if i + 1 < STEPS else None}


def _dmd(scheduler: Any, i: int) -> dict[str, Any]:
    tables = {"dmd_sigmas": scheduler.sigmas, "dmd_timesteps": scheduler.timesteps}
    noise = torch.ones(2, 4, 1, 3, 5)
    return {**tables, "cur_sampling_step": i, "all_timesteps": scheduler.timesteps, "dmd_noisy_tensor": noise}


def _repaint(scheduler: Any, i: int) -> dict[str, Any]:
    return {"original_image": torch.ones(SHAPE), "mask": torch.zeros(SHAPE)}


def _whole_batch(scheduler: Any, i: int) -> dict[str, Any]:
    return {"timestep": scheduler.timesteps[i].expand(SHAPE[0])}


def _predicting(kind: str, predictions: Sequence[str], **config: Any) -> list[Case]:
    return [Case(kind, {**config, "prediction_type": prediction}) for prediction in predictions]


_EV = ("epsilon", "v_prediction")
_EVS = (*_EV, "sample")
_FREE = {"clip_sample": False}
_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
_TRAILING = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_LAST = {"final_sigmas_type": "sigma_min"}
_VIDEO = (2, 4, 1, 3, 5)
_SOLVERS: list[dict[str, Any]] = [
    {"algorithm_type": "dpmsolver++", "solver_order": 1},
    {"algorithm_type": "dpmsolver++", "solver_order": 2},
    {"algorithm_type": "dpmsolver++", "solver_order": 3},
    {"algorithm_type": "dpmsolver", "solver_order": 2, **_LAST},
    {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
]
CASES = [
    *_predicting("DDIMScheduler", _EVS, **VP, **_FREE),
    *_predicting("DDIMScheduler", ["epsilon"], **VP, **_FREE, set_alpha_to_one=False, steps_offset=1),
    *_predicting("DDIMScheduler", ["v_prediction"], **VP, **_FREE, **_TRAILING),
    *_predicting("DDIMParallelScheduler", _EVS, **VP, **_FREE),
    *_predicting("CogVideoXDDIMScheduler", ["v_prediction"], snr_shift_scale=3.0, **_TRAILING),
    Case("CogVideoXDPMScheduler", {"prediction_type": "v_prediction", "snr_shift_scale": 1.0}, call=_look_back),
    Case("CogVideoXDPMScheduler", {"prediction_type": "epsilon", "snr_shift_scale": 3.0}, call=_look_back),
    *_predicting("DDPMScheduler", _EVS, **_FREE),
    Case("DDPMScheduler", {"variance_type": "learned_range", **_FREE}, output_channels=8),
    *_predicting("DDPMParallelScheduler", _EV, **_FREE),
    Case("UnCLIPScheduler", _FREE, call=_look_ahead),
    Case("DDPMWuerstchenScheduler", call=_whole_batch, unused=1),
    *_predicting("PNDMScheduler", _EV, **VP, skip_prk_steps=True),
    *_predicting("PNDMScheduler", _EV, **VP, skip_prk_steps=False),
    *(case for solver in _SOLVERS for case in _predicting("DPMSolverMultistepScheduler", _EV, **VP, **solver)),
    *(case for solver in _SOLVERS for case in _predicting("DPMSolverSinglestepScheduler", _EV, **VP, **solver)),
    Case("DPMSolverMultistepScheduler", {**_FLOW, "flow_shift": 3.0}),
    Case("DPMSolverSinglestepScheduler", {**_FLOW, "flow_shift": 3.0}),
    Case("DPMSolverMultistepScheduler", {**VP, "use_karras_sigmas": True}),
    *_predicting("DEISMultistepScheduler", _EV, **VP),
    Case("DEISMultistepScheduler", {**_FLOW, "flow_shift": 3.0}),
    *_predicting("UniPCMultistepScheduler", _EV, **VP),
    *_predicting("UniPCMultistepScheduler", _EV, **VP, predict_x0=False, **_LAST),
    Case("UniPCMultistepScheduler", {**_FLOW, "flow_shift": 5.0}),
    *_predicting("SASolverScheduler", _EV, **VP, algorithm_type="data_prediction"),
    *_predicting("SASolverScheduler", _EV, **VP, algorithm_type="noise_prediction"),
    Case("SASolverScheduler", {**VP, "use_karras_sigmas": True}),
    *_predicting("EulerDiscreteScheduler", _EVS, **VP),
    Case("EulerDiscreteScheduler", {**VP, "use_karras_sigmas": True}),
    *_predicting("EulerAncestralDiscreteScheduler", _EV, **VP),
    *_predicting("HeunDiscreteScheduler", _EVS, **VP),
    *_predicting("LMSDiscreteScheduler", _EVS, **VP),
    *_predicting("KDPM2DiscreteScheduler", _EV, **VP),
    *_predicting("KDPM2AncestralDiscreteScheduler", _EV, **VP),
    *_predicting("EDMEulerScheduler", _EV),
    *_predicting("EDMDPMSolverMultistepScheduler", _EV),
    *_predicting("LCMScheduler", _EV, **_FREE),
    *_predicting("TCDScheduler", _EV, **_FREE),
    Case("CMStochasticIterativeScheduler", {"clip_denoised": False}),
    Case("SCMScheduler", timesteps={"num_inference_steps": 2}, unused=1),
    Case("SCMScheduler", {"sigma_data": 0.6}, {"num_inference_steps": 4, "intermediate_timesteps": None}, unused=1),
    Case("FlowMatchEulerDiscreteScheduler"),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    Case(
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True, "base_shift": 0.4},
        {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 0.9},
    ),
    Case(
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True, "shift_terminal": 0.1},
        {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 0.9},
    ),
    Case("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    Case("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    Case("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    Case("FlowMatchLCMScheduler", {"shift": 3.0}),
    Case("FlowMapEulerDiscreteScheduler", {"shift": 3.0}),
    Case("LTXEulerAncestralRFScheduler"),
    Case("MiniMaxH3Scheduler"),
    Case("IPNDMScheduler"),
    Case("PiflowScheduler", output_channels=40, shape=(2, 6, 4)),
    Case("HeliosScheduler", {"stages": 1, "scheduler_type": "euler", **_FLOW}, shape=_VIDEO),
    Case("HeliosScheduler", {"stages": 1, "scheduler_type": "unipc", **_FLOW}, shape=_VIDEO),
    Case("HeliosDMDScheduler", {"stages": 1}, call=_dmd, shape=_VIDEO),
    *_predicting("DDIMInverseScheduler", _EV, **VP, **_FREE),
    *_predicting("DPMSolverMultistepInverseScheduler", _EV, **VP),
    Case("RePaintScheduler", _FREE, {"num_inference_steps": 12, "jump_length": 4, "jump_n_sample": 1}, call=_repaint),
]
BY_NAME = {case.name: case for case in CASES}
HISTORY = {
    "CogVideoXDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EDMDPMSolverMultistepScheduler",
    "FlowMatchHeunDiscreteScheduler", "HeliosScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
"""Schedulers whose papers have them read several evaluations; but for solvers of order 1 and Helios' Euler steps."""


def network(case: Case, sample: Tensor, i: int) -> Tensor:
    """Some model output, bounded, other in every step and element: [sample, output channel, ...]."""
    wide = sample.repeat_interleave(case.output_channels // 4, 1 if sample.dim() > 3 else -1)
    ramp = torch.linspace(0, 3 + i, wide.numel(), dtype=wide.dtype).reshape(wide.shape)
    return torch.sin(wide / (1 + wide.abs()) * 2 + ramp)


def step(scheduler: Any, call: Mapping[str, Any], output: Tensor, sample: Tensor, before: Any = None) -> Any:
    """What one step returns; `before` is what the last one returned, where a pipeline hands its history on."""
    call = dict(call)
    if "old_pred_original_sample" in call and before is not None:
        call["old_pred_original_sample"] = before[1]
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(sample, call["timestep"])
    return scheduler.step(output, sample=sample, **call)


def landed(returned: Any) -> Tensor:
    return returned[0] if isinstance(returned, tuple) else returned.prev_sample
