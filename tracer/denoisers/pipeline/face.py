"""`tracer.from_pipeline`: any diffusers pipeline, called as its user calls it, becomes a denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from interventions import TokenLayout
from interventions.seam.attend import attend
from tracer.denoisers.base import Sample
from tracer.denoisers.pipeline.call import Call, CallError
from tracer.denoisers.pipeline.conduct import Conduct, conduct
from tracer.denoisers.pipeline.denoiser import Pipeline
from tracer.denoisers.pipeline.hooks import DENOISERS, denoisers
from tracer.denoisers.pipeline.levels import prediction_of, schedule
from tracer.denoisers.pipeline.probe import Probed, aligned, probe
from tracer.denoisers.pipeline.rehearsal import Rehearsed, rehearse
from tracer.denoisers.pipeline.weights import weights_in_words
from tracer.samplers.base import Move, Sampler, Schedule


def from_pipeline(
    pipe: Any, *, layout: TokenLayout | None = None, checkpoint: Mapping[str, Any] | None = None, **call: Any
) -> Pipeline:
    """A denoiser from any diffusers pipeline, to be handed to `tracer.trace`.

    `call`: the arguments of the user's own `pipe(...)`, seeds apart: prompt (one or a list, which the samples take in
    turn), num_inference_steps, guidance_scale, height, width and so on. Sample i is what
    `pipe(..., generator=torch.Generator().manual_seed(seed + i))` gives, to the last bit in a call of the same samples
    where the scheduler draws no noise; what it draws in a step comes from (seed, step). `layout`: what the tokens are,
    where it is not to be inferred. `checkpoint`: what is recorded of where the weights come from. The network is asked
    a few times, for one sample.
    Raises CallError for what is no such pipeline and for arguments that it does not take, ProbeError where its tokens
    cannot be told, SeamError where its attention cannot be reached, SamplerError where its levels cannot be found.
    """
    if not hasattr(getattr(pipe, "scheduler", None), "step") or not denoisers(pipe):
        raise CallError(
            f"a {type(pipe).__name__} is no diffusers pipeline that asks a network ({', '.join(DENOISERS)}) and steps "
            "a scheduler: give what DiffusionPipeline.from_pretrained returns"
        )
    made = _Made(pipe, Call(pipe, call), layout, dict(checkpoint or {"weights": weights_in_words(pipe)}))
    return made.for_sample(Sample(0, 0))


@dataclass(frozen=True)
class _Made:
    """What a denoiser is made from, once more where the prompts of a run turn out to be longer."""

    pipe: Any
    asked: Call
    layout: TokenLayout | None
    checkpoint: Mapping[str, Any]

    def for_sample(self, sample: Sample) -> Pipeline:
        """The denoiser, as this sample shows it."""
        pipe, one = self.pipe, self.asked.of([sample])
        found = probe(pipe, one, layout=self.layout)
        seam = partial(attend, layout=found.layout, calls=found.calls, unreachable=found.unreachable)
        rehearsed = rehearse(pipe, self.asked.of([sample]), seam, found.conditional[2])
        scheduler, steps = rehearsed.scheduler, rehearsed.steps
        levels, kind, seen = schedule(scheduler, steps), prediction_of(scheduler, steps), conduct(scheduler, steps)
        sampler, refused = _sampler(seen, levels, kind), _refused(seen)
        where = self._provenance(found, rehearsed)
        suited, called = partial(self.suited, sample), partial(self.called, sample)
        found = replace(found, uniform=self._is_uniform(found, sample))
        return Pipeline(pipe, self.asked, found, rehearsed, where, levels, sampler, kind, refused, suited, called)

    def called(self, sample: Sample, arguments: Mapping[str, Any]) -> Pipeline:
        """The denoiser of a call with other arguments."""
        return replace(self, asked=Call(self.pipe, {**self.asked.arguments, **arguments})).for_sample(sample)

    def suited(self, shown: Sample, own: Pipeline, samples: Sequence[Sample]) -> Pipeline:
        """The denoiser for these samples: where texts have no fixed length, of the longest prompt.

        `own` is that of the sample `shown`. A longer prompt in letters may be a shorter one in tokens; words beyond
        the layout's are masked like the others and have no place in what is recorded.
        """
        if self.layout is not None or own.layout is None or not own.layout.elastic:
            return own
        texts = {self._text(sample): sample for sample in [shown, *samples]}
        longest = texts[max(texts, key=len)]
        return own if self._text(longest) == self._text(shown) else self.for_sample(longest)

    def _is_uniform(self, found: Probed, sample: Sample) -> bool:
        """Whether the image lies at the same places beside a longer prompt in one batch."""
        if self.layout is not None or not found.layout.elastic:
            return True
        text = self._text(sample)
        longer = replace(sample, prompt=f"{text} {text} {text}".strip())
        return aligned(self.pipe, self.asked.of([replace(sample, prompt=text), longer]))

    def _text(self, sample: Sample) -> str:
        prompts = self.asked.of([sample]).get("prompt") or [""]
        return str(prompts[0])

    def _provenance(self, found: Probed, rehearsed: Rehearsed) -> dict[str, Any]:
        """Where the network comes from, and what of it no intervention reaches or was set aside."""
        pipe = self.pipe
        where: dict[str, Any] = {
            "id": str(getattr(pipe, "name_or_path", "") or type(pipe).__name__),
            "pipeline": type(pipe).__name__,
        }
        where |= dict(self.checkpoint)
        if found.unreachable:
            where["unreachable"] = list(found.unreachable)
        if rehearsed.backends != ("native",):
            where["attention_backends"] = list(rehearsed.backends)
        if beside := [name for name in BESIDE if getattr(pipe, name, None) is not None]:
            where["not_masked"] = beside
        return where


BESIDE = ("controlnet", "adapter", "t2i_adapter", "image_encoder")
"""Networks with attention that a pipeline may ask beside its denoiser; no intervention acts there."""


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
