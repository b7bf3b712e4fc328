"""Which samplers there are, and the noise levels of a run by one of them. Listing names imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interventions.registry import Registry
from tracer.samplers.base import PREDICTIONS, Sampler, SamplerError, Schedule

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {"ddpm": "tracer.samplers.ddpm:DDPM", "ddim": "tracer.samplers.ddim:DDIM", "flow": "tracer.samplers.flow:FLOW"},
)
"""Samplers by name; other distributions add theirs under the entry points `denoise_trace.samplers`."""


def fitting(prediction: str) -> list[str]:
    """The samplers that can use what such a network predicts; the first is the default."""
    return [name for name, sampler in SAMPLERS.items() if prediction in sampler.fits]


def noise_levels(
    sampler: Sampler | str, steps: int, prediction: str, config: Mapping[str, Any] | None = None
) -> Schedule:
    """The noise levels of `steps` steps of a sampler, by value or by name.

    `config` speaks diffusers' scheduler language: `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule`,
    `steps_offset`, and for flow `shift`. Raises SamplerError for an unknown sampler, one that does not fit what the
    network predicts, and a number of steps that the training timesteps do not allow.
    """
    config = config or {}
    if isinstance(sampler, str):
        sampler = SAMPLERS.get_or_raise(sampler, SamplerError)
    if prediction not in sampler.fits:
        meaning = f" ({PREDICTIONS[prediction]})" if prediction in PREDICTIONS else ""
        raise SamplerError(
            f"sampler {sampler.name!r} does not fit a model that predicts {prediction!r}{meaning}: "
            f"use --sampler {', '.join(fitting(prediction))}"
        )
    train = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= train:
        raise SamplerError(f"{steps} steps: a schedule trained with {train} timesteps can take 1 to {train} steps")
    return sampler.schedule(steps, prediction, config)
