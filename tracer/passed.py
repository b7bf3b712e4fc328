"""A unit of samples whose steps are taken by the user's own pipeline: one pass for each lane, with its own memory.

The states of the loop are [sample, channel, y, x], whatever the pipeline's own look like. What a path carries beside
its state, the scheduler's memory and whatever else a step returns, is its history here, and has the arithmetic of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions.changes.base import Change
from tracer.batches import padded
from tracer.changed import Memories
from tracer.cost import Meter, meter
from tracer.denoisers.base import Landed, OwnSteps, Sample, optional_parts
from tracer.gains import StepMap
from tracer.lanes import CLEAN, Lane
from tracer.noise import sample_noise
from tracer.plan import Plan
from tracer.unit import Shown, Unit, most_removed


@dataclass
class Passed(Unit):
    """A unit of a pipeline. `steps`: the pipeline, opened; `first`: the clean lane's first step, which shows x_T, and
    what was recorded in it; `memories`: what lanes under a change of the network remember."""

    steps: OwnSteps
    first: tuple[Landed, dict[str, Tensor]]
    meter: Meter | None = None
    memories: Memories = field(default_factory=Memories)

    def remember(self, latest: Mapping[Any, tuple[Any, Any]]) -> None:
        """A path's history is one value: what its last step left."""
        self.past = {path: [past] for path, (_, past) in latest.items()}

    def step(self, i: int, lanes: Sequence[Lane], measured: int) -> Shown:
        """Evaluate these lanes; the clean one's first step was made when the unit was opened."""
        known, recorded = self.first if i == 0 else (None, {})
        asked = lanes[1:] if known else lanes
        each = [(lane.spec, self.state(lane.state), self._carried(self.path(lane.state))) for lane in asked]
        memories = [self.memories.of(lane) for lane in asked]
        landed, taken = self.steps.evaluate(i, each, measured - bool(known), memories) if asked else ([], {})
        parts = [padded(dict(part), most_removed(self.plan)) for part in (recorded, taken) if part]
        landed = [known, *landed] if known else landed
        eps, x0, led, mean = (
            torch.stack([getattr(each, name) for each in landed]) for name in ("eps", "x0", "landed", "mean")
        )
        together = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}
        at = {lane: k for k, lane in enumerate(lanes)}
        return Shown(at, eps, x0, led, mean, [each.past for each in landed], together)

    def clean_step(self, i: int, history: Sequence[Any], noise: Tensor | None) -> StepMap:
        """Each direction is a lane; its noise is that of the step."""

        def landed(states: Tensor) -> Tensor:
            lanes = [(CLEAN.spec, state, self._carried(history)) for state in states]
            return torch.stack([each.landed for each in self.steps.evaluate(i, lanes, 0)[0]])

        return landed

    def costs(self, i: int) -> dict[str, np.ndarray]:
        """What the meter says of the step."""
        return {} if self.meter is None else self.meter.of_step(self.plan, len(self.samples), i)

    @staticmethod
    def _carried(history: Sequence[Any]) -> Any:
        return history[0] if history else None

    def decode(self, x0: Tensor) -> np.ndarray:
        """By the rest of the pipeline's own call."""
        return self.steps.finish(x0, self.past["clean"][0])


@contextmanager
def passed(plan: Plan, samples: Sequence[Sample], record: Iterable[str]) -> Iterator[Passed]:
    """A unit at its start: the pipeline's own x_T, with the first step of its clean pass."""
    denoiser, fork = plan.denoiser, plan.request.fork
    like = torch.empty(0, dtype=denoiser.dtype, device=denoiser.device)
    itself = optional_parts(denoiser).runs_itself

    def draw(step: int, nth: int, shape: Sequence[int]) -> Tensor:
        number = step + nth * plan.schedule.steps
        return sample_noise(samples, number, shape, like, number + 1 if step < fork else 0)

    assert itself is not None
    alone = any(isinstance(arm.spec, Change) for arm in plan.arms)
    how = {"mask_seed": plan.mask_seed, "record": sorted(record), "draw": draw, "alone": alone}
    measured = meter(plan, samples)
    with itself.opened(samples, **how, meter=measured) as steps:
        (first,), recorded = steps.evaluate(0, [(CLEAN.spec, None, None)], 1)
        yield Passed(plan, samples, first.sample, steps, (first, recorded), measured)
