"""`tracer.from_pipeline`: any diffusers pipeline, called as its user calls it, becomes a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from interventions import TokenLayout
from interventions.seam.attend import attend
from tracer.denoisers.base import Sample
from tracer.denoisers.pipeline.call import Call
from tracer.denoisers.pipeline.conduct import Conduct, conduct
from tracer.denoisers.pipeline.denoiser import Pipeline
from tracer.denoisers.pipeline.levels import prediction_of, schedule
from tracer.denoisers.pipeline.probe import probe
from tracer.denoisers.pipeline.rehearsal import rehearse
from tracer.denoisers.pipeline.weights import weights_in_words
from tracer.samplers.base import Move, Sampler, Schedule


def from_pipeline(
    pipe: Any, *, layout: TokenLayout | None = None, checkpoint: Mapping[str, Any] | None = None, **call: Any
) -> Pipeline:
    """A denoiser from any diffusers pipeline, to be handed to `tracer.trace`.

    `call`: the arguments of the user's own `pipe(...)`, seeds apart: prompt (one or a list, which the samples take in
    turn), num_inference_steps, guidance_scale, height, width and so on. Sample i is what
    `pipe(..., generator=torch.Generator().manual_seed(seed + i))` gives, to the last bit where the scheduler draws no
    noise; what it draws in a step comes from (seed, step). `layout`: what the tokens are, where it is not to be
    inferred. `checkpoint`: what is recorded of where the weights come from. The network is asked a few times, for one
    sample.
    Raises CallError for arguments that the pipeline does not take, ProbeError where its tokens cannot be told,
    SeamError where its attention cannot be reached, and SamplerError where its scheduler's levels cannot be found.
    """
    asked = Call(pipe, call)
    one = asked.of([Sample(0, 0)])
    found = probe(pipe, one, layout=layout)
    seam = partial(attend, layout=found.layout, calls=found.calls, unreachable=found.unreachable)
    rehearsed = rehearse(pipe, asked.of([Sample(0, 0)]), seam)
    scheduler, steps = rehearsed.scheduler, rehearsed.steps
    levels, kind, seen = schedule(scheduler, steps), prediction_of(scheduler, steps), conduct(scheduler, steps)
    where = {"id": getattr(pipe, "name_or_path", "") or type(pipe).__name__, "pipeline": type(pipe).__name__}
    where |= dict(checkpoint) if checkpoint else {"weights": weights_in_words(pipe)}
    return Pipeline(pipe, asked, found, rehearsed, where, levels, _sampler(seen, levels, kind), kind, _refused(seen))


def _sampler(seen: Conduct, levels: Schedule, kind: str) -> Sampler:
    """The pipeline's scheduler as a sampler that takes no step here."""

    def step(*_: Any) -> Move:
        raise TypeError(f"{seen.scheduler} is stepped by its pipeline")

    def affine(_: Schedule) -> tuple[np.ndarray, np.ndarray]:
        return seen.state_factor, seen.prediction_factor

    return Sampler(
        name=seen.scheduler,
        help="the pipeline's own scheduler",
        fits=(kind,),
        stochastic=seen.stochastic,
        schedule=lambda *_: levels,
        step=step,
        affine=None if seen.no_null else affine,
        history=int(seen.history),
    )


def _refused(seen: Conduct) -> dict[str, str]:
    """Record -> why it cannot be made with this scheduler."""
    refused = {"worst": "a pipeline runs without gradients; leave it out (`tangent` needs none)"}
    if seen.no_null:
        why = f"not defined here: {seen.no_null}; leave it out, or give the pipeline another scheduler"
        refused |= {"null": why, "own": why}
    if seen.history:
        refused["transport"] = (
            f"not made for {seen.scheduler}, whose steps read what earlier ones left behind; leave it out"
        )
    return refused
