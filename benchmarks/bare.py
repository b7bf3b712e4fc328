"""The loop that anyone would write around the stock diffusers network: guidance in one batch, a sampler, no tracer.

It reads the network, the schedule and the conditions of a plan, so that it computes what the clean lane of a traced
run computes: from the same noise both end in the same state, bit for bit (`tests/test_benchmarks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.denoisers.base import Sample
from tracer.plan import Plan
from tracer.samplers import Prediction

Predict = Callable[[Tensor, float], Prediction]
"""(states [sample, channel, y, x], timestep) -> the guided prediction there."""


def bare_predict(plan: Plan, samples: Sequence[Sample]) -> Predict:
    """The stock network of a plan with its conditions and guidance, called without the seam."""
    family = {"dit": _dit, "sd3": _sd3}[plan.denoiser.name]
    with torch.no_grad():
        return family(plan.denoiser, samples, plan.guidance)


def bare_step(plan: Plan, predict: Predict, x: Tensor, i: int, noise: Tensor | None) -> Tensor:
    """One step of the plan's sampler from the states x."""
    levels = plan.schedule
    return plan.sampler.step(levels, i, x, [predict(x, float(levels.timestep[i]))], []).land(noise)


def drawn(plan: Plan, x: Tensor, i: int) -> Tensor | None:
    """The noise of a step as a bare loop draws it; None where the sampler uses none."""
    return torch.randn_like(x) if plan.sampler.stochastic and i + 1 < plan.schedule.steps else None


def _dit(denoiser: Any, samples: Sequence[Sample], guidance: float) -> Predict:
    """DiT: [conditional, unconditional] halves, the first channels guided, the learned variance of the condition."""
    model, guided = denoiser.model, denoiser.guidance_channels
    labels = torch.tensor([sample.class_label for sample in samples], device=model.device)
    both = torch.cat([labels, torch.full_like(labels, len(denoiser.classes))])

    def predict(x: Tensor, timestep: float) -> Prediction:
        rows, labels = (torch.cat([x, x]), both) if guidance != 1 else (x, both[: len(x)])
        t = torch.full((len(rows),), int(timestep), device=model.device)
        output = model(rows.to(model.dtype), timestep=t, class_labels=labels).sample.to(x.dtype)
        value, *variance = output.chunk(2, dim=1) if output.shape[1] > x.shape[1] else (output,)
        if guidance != 1:
            conditional, unconditional = value.chunk(2)
            mixed = unconditional + guidance * (conditional - unconditional)
            value = torch.cat([mixed[:, :guided], conditional[:, guided:]], dim=1)
        return Prediction(value, variance[0][: len(x)] if variance else None)

    return predict


def _sd3(denoiser: Any, samples: Sequence[Sample], guidance: float) -> Predict:
    """SD3: [negative, positive] halves."""
    model = denoiser.model
    prompts = [sample.prompt for sample in samples]
    told = prompts if guidance == 1 else [denoiser.negative] * len(prompts) + prompts
    tokens, pooled = denoiser.conditions.batch(told, model.device, model.dtype)

    def predict(x: Tensor, timestep: float) -> Prediction:
        rows = x if guidance == 1 else torch.cat([x, x])
        t = torch.full((len(rows),), timestep, device=model.device)
        value = model(
            rows.to(model.dtype), timestep=t, encoder_hidden_states=tokens, pooled_projections=pooled
        ).sample.to(x.dtype)
        if guidance == 1:
            return Prediction(value)
        negative, positive = value.chunk(2)
        return Prediction(negative + guidance * (positive - negative))

    return predict
