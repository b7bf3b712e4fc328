"""Any diffusers pipeline behind the `Denoiser` protocol: the user's own call runs itself, once for each lane.

What must be known of it is found by running it (`probe`, `rehearsal`, `levels`); its states are brought to
[sample, channel, y, x], the frames of a video one after the other along the channels, and handed back as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions import Intervention, TokenLayout
from interventions.seam.attend import attend
from interventions.spec import Clean
from tracer.denoisers.base import Evaluation, Landed, Sample
from tracer.denoisers.pipeline import levels
from tracer.denoisers.pipeline.call import Call, CallError
from tracer.denoisers.pipeline.hooks import denoisers
from tracer.denoisers.pipeline.passes import Passes, Past, running
from tracer.denoisers.pipeline.pictures import pictures
from tracer.denoisers.pipeline.probe import Probed, probe
from tracer.denoisers.pipeline.rehearsal import Rehearsed, rehearse
from tracer.samplers.base import Sampler, Schedule

Draw = Callable[[int, int, Sequence[int]], Tensor]


@dataclass(eq=False)
class Pipeline:
    """A diffusers pipeline that can be traced. Made by `from_pipeline`."""

    pipe: Any
    asked: Call
    probed: Probed
    rehearsed: Rehearsed
    checkpoint: dict[str, Any]
    schedule: Schedule
    sampler: Sampler
    refused: dict[str, str]
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.name = type(self.pipe).__name__.removesuffix("Pipeline").lower()
        found = self.probed
        self.frames = found.frames
        self.shape = (found.frames * found.channels, found.height, found.width)
        self.layout: TokenLayout | None = found.layout
        self.model = denoisers(self.pipe)[0]
        self.device = torch.device(self.pipe._execution_device)
        self.prediction = self.schedule.prediction
        self.scheduler = {"class": type(self.pipe.scheduler).__name__}
        self.image_size, self.sites, self.heads = self.rehearsed.image_size, self.rehearsed.sites, self.rehearsed.heads
        self.layers = len(self.sites)
        self.prompts, self.prompted = self.asked.prompts, "prompt" in self.asked.takes
        self.call = self.asked.described_in_words()
        guidance = self.asked.arguments.get("guidance_scale")
        self.defaults = {"sampler": self.sampler.name, "steps": self.schedule.steps}
        self.defaults |= {"guidance": float(guidance)} if isinstance(guidance, int | float) else {}

    def opened(
        self, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str]
    ) -> AbstractContextManager[Evaluation]:
        """A pipeline takes its steps by itself: see `passes`."""
        raise TypeError(f"{self.name} runs itself: its steps are taken by `passes`")

    def decode(self, x0: Tensor) -> np.ndarray:
        """The end of a call decodes, for the samples that it was made for: see `passes`."""
        raise TypeError(f"{self.name} runs itself: its pictures are made by `passes`")

    @contextmanager
    def passes(self, samples: Sequence[Sample], *, mask_seed: int, record: Iterable[str], draw: Draw) -> Iterator[Opened]:
        """The pipeline opened for these samples. `draw`: (step, draws before it in this step, shape) -> noise."""
        seam = partial(self._seam, samples=[sample.seed for sample in samples], seed=mask_seed, record=tuple(record))
        told = self.asked.of(samples)
        noise = partial(self._noise, draw)
        where = self.probed.conditional[0]
        with running(self.pipe, lambda: self.pipe(**told), self.schedule.steps, where, noise, seam) as passes:
            yield Opened(self, passes)

    def _seam(self, module: torch.nn.Module, **how: Any) -> Any:
        found = self.probed
        _, half, halves = found.conditional
        return attend(
            module, Clean(), layout=found.layout, half=half if halves > 1 else None,
            calls=found.calls, unreachable=found.unreachable, **how,
        )  # fmt: skip

    def _noise(self, draw: Draw, step: int, nth: int, shape: Sequence[int]) -> Tensor:
        noise = self.packed(draw(step, nth, self.shape))
        if tuple(noise.shape) != tuple(shape):
            raise CallError(
                f"{type(self.pipe.scheduler).__name__} draws noise of shape {tuple(shape)} where the state has "
                f"{tuple(noise.shape)}: use another scheduler"
            )
        return noise

    def canonical(self, sample: Tensor) -> Tensor:
        """A state or output of the pipeline -> float32 [sample, channel, y, x]; a doubled batch once."""
        rows = len(sample) // self.probed.copies
        return self.probed.unpack.canonical(sample[:rows].float())

    def packed(self, state: Tensor) -> Tensor:
        """The pipeline's own form of a state [sample, channel, y, x]."""
        packed: Tensor = self.probed.unpack.packed(state)
        return packed.repeat(self.probed.copies, *[1] * (packed.dim() - 1))


@dataclass
class Opened:
    """A pipeline opened for some samples, with states as the loop has them."""

    denoiser: Pipeline
    passes: Passes

    def evaluate(self, step: int, x: Tensor | None, past: Past | None, intervention: Intervention, measured: bool) -> Landed:
        """Take a step from the state x of a path with this past; None: the pipeline's own start, in step 0."""
        owner = self.denoiser
        state = None if x is None or past is None else owner.packed(x).to(owner.rehearsed.sample)
        landing = self.passes.evaluate(
            step, state, past, intervention, measured=measured, noisy=owner.sampler.stochastic
        )
        sample, landed, mean = (owner.canonical(each) for each in (landing.sample, landing.landed, landing.mean))
        output = owner.canonical(levels.without_variance(landing.output, landing.sample))
        eps, x0 = levels.epsilon_and_x0(owner.pipe.scheduler, owner.schedule.level(step), sample, output)
        recorded = {name: value[0, 0] for name, value in landing.recorded.items()}
        return Landed(sample, eps, x0, landed, mean, landing.past, recorded)

    def finish(self, x0: Tensor, past: Past) -> np.ndarray:
        """uint8 [sample, y, x, 3], by the rest of the pipeline's call."""
        owner = self.denoiser
        return pictures(self.passes.finish(owner.packed(x0).to(owner.rehearsed.sample), past))
