"""Which changes of the network, and of the way the state moves, can be arms of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interventions.changes.base import Change
from interventions.changes.fewer import FewerSteps, Moves
from interventions.changes.own import SecondNetwork
from interventions.errors import SpecError
from tracer.denoisers.pipeline.hooks import DENOISERS

if TYPE_CHECKING:
    from tracer.denoisers.pipeline.denoiser import Pipeline

HOLDABLE = ("epsilon", "flow")
"""What a network may be asked for so that an answer that is held is a clean image that is held."""


def check_change(spec: Change, denoiser: Pipeline) -> None:
    """Raise SpecError for a change that cannot be an arm of this pipeline."""
    if isinstance(spec, FewerSteps):
        if why := not_held(denoiser):
            raise SpecError(f"{spec}: {why}; make a second run with --steps {spec.count} instead")
    elif isinstance(spec, Moves):
        raise SpecError(
            f"{spec}: in a pipeline its own scheduler moves the state; make a second run of the pipeline with another "
            "scheduler"
        )
    named = [name for name in DENOISERS if getattr(denoiser.pipe, name, None) is not None]
    if isinstance(spec, SecondNetwork) and hasattr(spec.network, "state_dict") and len(named) > 1:
        raise SpecError(
            f"{spec}: {denoiser.name} asks several networks in turn ({', '.join(named)}), and one cannot stand in for "
            "all of them: give model= a function, which makes one of each, for example "
            "model=lambda network: copy.deepcopy(network).half()"
        )


def not_held(denoiser: Pipeline) -> str:
    """Why holding the network's answer over some steps is not a coarser run of the same scheduler; "" where it is.

    It is where every step goes on the straight line that the answer fixes, x' = alpha' x0 + sigma' noise: then the
    steps between add up to one long one. That is DDIM (Song et al. 2021, eq. 12 with sigma_t = 0) for a network that
    predicts noise, and Euler's method for one that predicts the flow's velocity.
    """
    name, levels = denoiser.sampler.name, denoiser.schedule
    if denoiser.sampler.stochastic or denoiser.sampler.affine is None:
        return f"{name} draws noise, or reads more than the step's own answer, so held answers are no coarser run"
    if denoiser.kind not in HOLDABLE:
        return f"the network predicts {denoiser.kind}, which held over steps is another clean image in each"
    p, q = denoiser.sampler.factors(levels)
    each = [(levels.level(i), levels.level(i + 1)) for i in range(levels.steps)]
    ratio = np.array([there.sigma / here.sigma for here, there in each])
    straight = np.array([there.alpha - here.alpha * there.sigma / here.sigma for here, there in each])
    if not (np.allclose(p, ratio, atol=1e-5) and np.allclose(q, straight, atol=1e-5)):
        return f"a step of {name} does not stay on the line of one answer, so held answers are no coarser run"
    return ""
