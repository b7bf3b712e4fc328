"""A unit of samples whose steps are taken by the user's own pipeline: one pass for each lane, with its own memory.

The states of the loop are [sample, channel, y, x], whatever the pipeline's own look like. What a path carries beside
its state, the scheduler's memory and whatever else a step returns, is its history here, and has the arithmetic of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions import Intervention
from tracer.batches import padded
from tracer.denoisers.base import Landed, Passes, Sample, optional_parts
from tracer.gains import StepMap
from tracer.lanes import CLEAN, Lane
from tracer.noise import sample_noise
from tracer.plan import Plan
from tracer.unit import Shown, Unit, most_removed


@dataclass
class Passed(Unit):
    """A unit of a pipeline. `passes`: the runs of its call; `first`: the clean lane's first step, which shows x_T."""

    passes: Passes
    first: Landed

    def remember(self, latest: Mapping[Any, tuple[Any, Any]]) -> None:
        """A path's history is one value: the memory that its last step left."""
        self.past = {path: [past] for path, (_, past) in latest.items()}

    def step(self, i: int, lanes: Sequence[Lane], measured: int) -> Shown:
        """Evaluate these lanes one after the other."""
        landed = [self._land(i, lane, k < measured) for k, lane in enumerate(lanes)]
        eps, x0, led, mean = (
            torch.stack([getattr(each, name) for each in landed]) for name in ("eps", "x0", "landed", "mean")
        )
        recorded = [padded(dict(each.recorded), most_removed(self.plan)) for each in landed[:measured]]
        stacked = {name: torch.stack([each[name] for each in recorded]) for name in (recorded[0] if recorded else ())}
        at = {lane: k for k, lane in enumerate(lanes)}
        return Shown(at, eps, x0, led, mean, [each.past for each in landed], stacked)

    def _land(self, i: int, lane: Lane, measured: bool) -> Landed:
        if i == 0 and lane == CLEAN:
            return self.first
        return self._evaluate(i, self.state(lane.state), self.path(lane.state), lane.spec, measured)

    def _evaluate(self, i: int, x: Tensor, history: Sequence[Any], spec: Intervention, measured: bool) -> Landed:
        return self.passes.evaluate(i, x, history[0] if history else None, spec, measured)

    def clean_step(self, i: int, history: Sequence[Any], noise: Tensor | None) -> StepMap:
        """Each direction is a pass of its own; its noise is that of the step."""

        def landed(states: Tensor) -> Tensor:
            return torch.stack([self._evaluate(i, state, history, CLEAN.spec, False).landed for state in states])

        return landed

    def decode(self, x0: Tensor) -> np.ndarray:
        """By the rest of the pipeline's own call."""
        return self.passes.finish(x0, self.past["clean"][0])


@contextmanager
def passed(plan: Plan, samples: Sequence[Sample], record: Iterable[str]) -> Iterator[Passed]:
    """A unit at its start: the pipeline's own x_T, with the first step of its clean pass."""
    denoiser, fork = plan.denoiser, plan.request.fork
    like = torch.empty(0, dtype=denoiser.dtype, device=denoiser.device)
    open_passes = optional_parts(denoiser).passes

    def draw(step: int, nth: int, shape: Sequence[int]) -> Tensor:
        number = step + nth * plan.schedule.steps
        return sample_noise(samples, number, shape, like, number + 1 if step < fork else 0)

    assert open_passes is not None
    with open_passes(samples, mask_seed=plan.mask_seed, record=sorted(record), draw=draw) as passes:
        first = passes.evaluate(0, None, None, CLEAN.spec, True)
        yield Passed(plan, samples, first.sample, passes, first)
