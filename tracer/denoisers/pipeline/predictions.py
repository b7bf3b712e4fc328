"""What a network may be asked for by a scheduler, as the clean image and the noise that follow from its answer.

An answer is linear in both, so two factors say it all: x0 = skip x + out answer, at a level x = alpha x0 + sigma n.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tracer.samplers.base import Level, SamplerError

KINDS = {
    "epsilon": "the noise n",
    "v_prediction": "alpha n - sigma x0, both over sqrt(alpha^2 + sigma^2) (Salimans & Ho 2022)",
    "sample": "the clean image x0",
    "flow": "the velocity n - x0 of rectified flow",
    "flow_to_data": "the velocity x0 - n, towards the data",
    "edm": "what EDM's preconditioning makes the clean image of (Karras et al. 2022)",
    "consistency": "what the boundary scalings of a consistency model make the clean image of (Song et al. 2023)",
}
"""What a network may be asked for."""
NAMES = {
    "flow_prediction": "flow",
    "original_sample": "sample",
    "trigflow": "v_prediction",
}
"""diffusers' other words for them; trigflow is v-prediction at alpha = cos t, sigma = sin t."""


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
    raise SamplerError(f"a network asked for {kind!r} is unknown: {', '.join(KINDS)}")


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
