"""What a network may be asked for by a scheduler, as the clean image and the noise that follow from its answer.

An answer is linear in both, so two factors say it all: x0 = skip x + out answer, at a level x = alpha x0 + sigma n.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tracer.samplers.base import PREDICTIONS, Level, SamplerError

NAMES = {
    "flow_prediction": "flow",
    "original_sample": "sample",
    "trigflow": "v_prediction",
}
"""diffusers' other words for a key of `PREDICTIONS`; trigflow is v-prediction at alpha = cos t, sigma = sin t."""


class Factors(NamedTuple):
    """x0 = skip x + out answer, plain floats."""

    skip: float
    out: float


def denoised_factors(scheduler: Any, kind: str, level: Level) -> Factors:
    """The factors of the clean image at a level, for a network asked for `kind`; before any clipping or threshold.

    The scheduler is asked where the factors are its own: EDM's and those of consistency models.
    """
    _, a, s = level
    norm = a**2 + s**2
    if kind == "epsilon":
        return Factors(1 / a, -s / a) if a else Factors(float("nan"), float("nan"))
    if kind == "v_prediction":
        return Factors(a / norm, -s / norm**0.5)
    if kind == "sample":
        return Factors(0.0, 1.0)
    if kind == "flow":
        return Factors(1.0, -s)
    if kind == "flow_to_data":
        return Factors(1.0, s)
    sigma = torch.tensor(s, dtype=torch.float64)
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    if kind == "edm":
        return Factors(*(float(scheduler.precondition_outputs(*pair, sigma)) for pair in ((one, zero), (zero, one))))
    if kind == "consistency":
        return Factors(*map(float, scheduler.get_scalings_for_boundary_condition(sigma)))
    raise SamplerError(f"a network asked for {kind!r} is unknown: {', '.join(PREDICTIONS)}")


def answer(scheduler: Any, kind: str, level: Level, x0: Tensor, noise: Tensor) -> Tensor:
    """What a network that knows x0 and the noise says at a level."""
    _, a, s = level
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return (a * noise - s * x0) / (a**2 + s**2) ** 0.5
    if kind == "flow":
        return noise - x0
    if kind == "flow_to_data":
        return x0 - noise
    skip, out = denoised_factors(scheduler, kind, level)
    return (x0 - skip * (a * x0 + s * noise)) / out


def epsilon_and_x0(scheduler: Any, kind: str, level: Level, x: Tensor, model_output: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and clean image that a scheduler takes a network's answer for, in the shape and dtype of the state x.

    Before any clipping or threshold of the clean image, which are the step's. `model_output` may have more channels
    than x, a learned variance: they are left out. Raises SamplerError where it has another shape.
    """
    value = without_variance(x, model_output)
    skip, out = denoised_factors(scheduler, kind, level)
    x0 = value if kind == "sample" else skip * x + out * value
    if kind == "epsilon":
        return value, x0
    _, a, s = level
    return (1 - a * skip) / s * x - a * out / s * value, x0


def without_variance(x: Tensor, model_output: Tensor) -> Tensor:
    """The part of a network's answer that is like the state: a learned variance stands in further channels."""
    if x.shape == model_output.shape:
        return model_output
    axis = 1 if x.dim() > 3 else x.dim() - 1
    narrow = model_output.narrow(axis, 0, x.shape[axis]) if model_output.shape[axis] > x.shape[axis] else model_output
    if narrow.shape != x.shape:
        raise SamplerError(
            f"the network's answer has the shape {tuple(model_output.shape)}, the state {tuple(x.shape)}: it must have "
            "the same, or more channels for a learned variance"
        )
    return narrow
