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
from interventions.changes.base import Change
from interventions.seam.attend import attend, sites
from interventions.seam.reach import check_reach
from interventions.segments import KINDS
from interventions.spec import Clean
from tracer.denoisers.base import CallMeter, Evaluation, Landed, RunsItself, Sample
from tracer.denoisers.conditions import real_tokens
from tracer.denoisers.pipeline.call import Call, CallError, plain
from tracer.denoisers.pipeline.changed import Memories, Under
from tracer.denoisers.pipeline.changes import check_change
from tracer.denoisers.pipeline.hooks import bare, denoisers
from tracer.denoisers.pipeline.passes import Landing, Passes, Past, Question, running
from tracer.denoisers.pipeline.pictures import pictures
from tracer.denoisers.pipeline.predictions import epsilon_and_x0
from tracer.denoisers.pipeline.probe import Probed
from tracer.denoisers.pipeline.rehearsal import Rehearsed
from tracer.denoisers.pipeline.text import filled_up, spelled
from tracer.denoisers.pipeline.together import Lanes, Network
from tracer.denoisers.word_tokens import words_of
from tracer.samplers.base import Sampler, Schedule

Draw = Callable[[int, int, Sequence[int]], Tensor]


@dataclass(eq=False)
class Pipeline:
    """A diffusers pipeline that can be traced. Made by `from_pipeline`.

    kind: what its scheduler asks the network for, a key of `predictions.KINDS`. refused: record -> why not. suited:
    makes it fit the prompts of a run. called: that of a call with other arguments.
    """

    pipe: Any
    asked: Call
    probed: Probed
    rehearsed: Rehearsed
    checkpoint: dict[str, Any]
    schedule: Schedule
    sampler: Sampler
    kind: str
    refused: dict[str, str]
    suited: Callable[[Pipeline, Sequence[Sample]], Pipeline]
    called: Callable[[Mapping[str, Any]], Pipeline]
    lanes: Lanes = field(default_factory=Lanes)
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.name = type(self.pipe).__name__.removesuffix("Pipeline").lower()
        found = self.probed
        self.frames, self._alone = found.frames, False
        self.shape = (found.frames * found.channels, found.height, found.width)
        self.layout: TokenLayout | None = found.layout
        self.model = denoisers(self.pipe)[0]
        self.device = torch.device(self.pipe._execution_device)
        self.prediction = self.kind
        self.scheduler = {"class": type(self.pipe.scheduler).__name__, **_settings(self.pipe.scheduler.config)}
        self.image_size, self.sites, self.heads = self.rehearsed.image_size, self.rehearsed.sites, self.rehearsed.heads
        self.layers = len(self.sites)
        self.prompted = self.asked.prompted
        call = self.asked.described_in_words()
        self.runs_itself = RunsItself(
            self.passes, self.sampler, call, self.asked.prompts, self.refused, partial(self.suited, self),
            "" if found.uniform else f"in {self.name} the image lies elsewhere where a prompt has another length",
            self.rehearsed.asked,
            self.called, check=self._check, told=self._told, networks=tuple(map(bare, denoisers(self.pipe))),
        )  # fmt: skip
        if tokenizer := filled_up(self.pipe, self.asked.value("max_sequence_length"), found.layout):
            self.padding = partial(self._padding, tokenizer)
        if spelling := spelled(self.pipe, self.asked.value("max_sequence_length"), found.layout):
            self.words = lambda samples: [words_of(prompt, spelling) for prompt in self._prompts(samples)]
        guidance = self.asked.value("guidance_scale")
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
    def passes(
        self,
        samples: Sequence[Sample],
        *,
        mask_seed: int,
        record: Iterable[str],
        draw: Draw,
        alone: bool = False,
        meter: CallMeter | None = None,
    ) -> Iterator[Opened]:
        """The pipeline opened for these samples. `draw`: (step, draws before it in this step, shape) -> noise. alone:
        no two lanes go through the network in one batch. meter: what measures the cost of its calls."""
        seam = partial(self._seam, samples=[sample.seed for sample in samples], seed=mask_seed, record=tuple(record))
        steps = self.schedule.steps
        self._alone = alone
        network = Network(len(samples), steps, self.probed.conditional[0], self.lanes, alone, meter)
        with running(
            self.pipe, seam, network, call=lambda: self.pipe(**self.asked.of(samples)), steps=steps,
            noisy=self.sampler.stochastic, draw=partial(self._noise, draw),
        ) as passes:  # fmt: skip
            yield Opened(self, passes)

    def _told(self) -> str:
        """How the lanes of the last run went through the network."""
        return "one by one: an arm changes the network" if self._alone else self.lanes.told()

    def _prompts(self, samples: Sequence[Sample]) -> list[str]:
        """What is shown to these samples: their own prompts, or in turn those that the pipeline was given."""
        told = self.asked.prompts or [""]
        return [told[each.start % len(told)] if each.prompt is None else each.prompt for each in samples]

    def _padding(self, tokenizer: Any, samples: Sequence[Sample]) -> np.ndarray:
        """Bool [sample, token]: text tokens that only fill up the sequence."""
        kinds = self.probed.layout.kinds()
        padding = np.zeros((len(samples), len(kinds)), bool)
        for row, prompt in enumerate(self._prompts(samples)):
            padding[row, kinds == KINDS["text"]] = ~real_tokens(tokenizer, prompt, self.probed.layout.text).numpy()
        return padding

    def _check(self, spec: Intervention) -> None:
        """Raise SpecError for what cannot act in this pipeline."""
        if isinstance(spec, Change):
            check_change(spec, self)
            return
        check_reach(spec, sites(self.model, self.probed.calls, self.probed.unreachable))

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

    def evaluate(
        self,
        step: int,
        lanes: Sequence[tuple[Intervention, Tensor | None, Past | None]],
        measured: int,
        memories: Sequence[Memories | None] | None = None,
    ) -> tuple[list[Landed], dict[str, Tensor]]:
        """Take a step in every lane: (intervention, state, past of its path); see `OwnSteps`."""
        remembered = memories or [None] * len(lanes)
        questions = [
            Question(
                Under(spec, {} if kept is None else kept, _beside(lanes, k)),
                None if past is None else self._own(x),
                past,
                k < measured,
            )
            for k, ((spec, x, past), kept) in enumerate(zip(lanes, remembered, strict=True))
        ]
        landings, recorded = self.passes.evaluate(step, questions)
        return [self._landed(step, each) for each in landings], recorded

    def _landed(self, step: int, landing: Landing) -> Landed:
        owner = self.denoiser
        sample, landed, mean = (owner.canonical(each) for each in (landing.sample, landing.landed, landing.mean))
        level, x = owner.schedule.level(step), landing.sample.float()
        eps, x0 = epsilon_and_x0(owner.rehearsed.scheduler, owner.kind, level, x, landing.output.float())
        return Landed(sample, owner.canonical(eps), owner.canonical(x0), landed, mean, landing.past)

    def _own(self, x: Tensor | None) -> Tensor:
        """A state in the pipeline's own form, precision and order in memory, which decides how a convolution rounds."""
        assert x is not None
        like = self.denoiser.rehearsed.sample
        state = self.denoiser.packed(x)
        own = torch.empty_permuted(state.shape, like.dim_order(), dtype=like.dtype, device=like.device)
        return own.copy_(state)

    def finish(self, x0: Tensor, past: Past) -> np.ndarray:
        """uint8 [sample, y, x, 3], by the rest of the pipeline's call."""
        return pictures(self.passes.finish(self._own(x0), past))


def _beside(lanes: Sequence[tuple[Intervention, Tensor | None, Past | None]], k: int) -> int | None:
    """Which lane asks the clean network at the state of lane k."""
    return next((j for j, (spec, x, _) in enumerate(lanes) if isinstance(spec, Clean) and x is lanes[k][1]), None)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a scheduler, as they are stored and compared."""
    return {name: plain(value) for name, value in sorted(config.items()) if not name.startswith("_")}
