"""The states of one unit of samples while it runs, and the network calls that move them.

A unit holds the clean state, the states of every arm's paths, and what a sampler reads of earlier steps. What the
states mean and where they go is `tracer.trajectory`. Here the steps are taken by this project's samplers; where a
pipeline runs itself it is `tracer.passed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions.changes.base import Change
from interventions.changes.fewer import OtherSampler
from interventions.spec import Full, KeyRemoval
from tracer.batches import Batches, Limits
from tracer.changed import Asking, Memories, moved_otherwise
from tracer.cost import Meter, meter
from tracer.denoisers.base import Moment, Sample, optional_parts
from tracer.gains import StepMap
from tracer.lanes import CLEAN, Lane, asked_lanes
from tracer.noise import coupled_noise, sample_noise
from tracer.plan import Plan
from tracer.samplers.advance import advance
from tracer.samplers.base import Earlier, Level, Prediction, epsilon_and_x0, kept_signal
from tracer.samplers.registry import SAMPLERS


@dataclass(frozen=True)
class Shown:
    """What the lanes of one step showed, [lane, sample, ...] each: their predictions, where they lead, and its mean.

    earlier: what a later step of the path reads of this one, by lane. recorded: what the seam recorded of the lanes
    that are measured, in the step's first evaluation, at the level where it starts. noise: that of the step.
    """

    at: Mapping[Lane, int]
    eps: Tensor
    x0: Tensor
    landed: Tensor
    mean: Tensor
    earlier: Sequence[Any]
    recorded: Mapping[str, Tensor]
    noise: Tensor | None = None

    def predicted(self, lane: Lane) -> Any:
        """What the network predicted there, as a later step reads it."""
        return self.earlier[self.at[lane]]

    def led(self, lane: Lane) -> Tensor:
        """The state that the lane leads to."""
        return self.landed[self.at[lane]]


@dataclass
class Unit:
    """The states of one unit of samples while it runs.

    `x`: the clean state [sample, channel, y, x]. `states`: what the other lanes of the next step read, by the names of
    `lanes.Lane`. `pushes`: every arm's last injection. `sums`: sum -> arm -> contributions so far. `tangents`: the
    injections carried by the clean step's linear map; `reaches`: how many of them the lanes "ahead" and "behind" are
    away from the clean state. `past`: for every path what its earlier steps predicted, the latest first, as far back
    as the sampler reads (`Earlier`, or what else a later step takes that has its arithmetic). `finite`: per step, which
    lanes [lane, sample] led to a finite state; it stays on the device. `frames` and `words`: pictures of
    predictions and maps of words so far, of every arm in each step that is kept, on the CPU.
    """

    plan: Plan
    samples: Sequence[Sample]
    x: Tensor

    def __post_init__(self) -> None:
        self.states: dict[Any, Tensor] = {}
        self.pushes: dict[int, Tensor] = {}
        self.sums: dict[str, dict[int, Tensor]] = {}
        self.tangents: dict[int, Tensor] = {}
        self.reaches: dict[int, Tensor] = {}
        self.past: dict[Any, list[Any]] = {"clean": []}
        self.finite: list[Tensor] = []
        self.frames: list[np.ndarray] = []
        self.words: list[np.ndarray] = []

    def state(self, name: Any) -> Tensor:
        """The state of this name, "clean" or (kind, arm)."""
        return self.x if name == "clean" else self.states[name]

    def arm(self, m: int, kind: str = "arm") -> Tensor:
        """Where arm m stands on this path; the clean state where it has not departed."""
        return self.states.get((kind, m), self.x)

    def is_floor(self, m: int) -> bool:
        """Whether arm m is the numerical floor, of which nothing but its error is asked."""
        return isinstance(self.plan.arms[m].spec, Full)

    def nothing(self, m: int) -> Tensor:
        """What an arm that never departed has of a sum or a path: 0, and NaN for the floor, which was not asked."""
        return torch.full_like(self.x, torch.nan if self.is_floor(m) else 0.0)

    def remember(self, latest: Mapping[Any, tuple[Any, Any]]) -> None:
        """Add what the step predicted to the history of every path: path -> (the path it was on, its prediction)."""
        if depth := self.plan.sampler.history:
            self.past = {path: [earlier, *self.past[before]][:depth] for path, (before, earlier) in latest.items()}

    def path(self, name: Any) -> list[Any]:
        """What a lane on this state reads of earlier steps; a pushed state has the clean path's."""
        return self.past.get(name, self.past["clean"])

    def step(self, i: int, lanes: Sequence[Lane], measured: int) -> Shown:
        """Evaluate these lanes, the first `measured` of them with their attention, and say where they lead."""
        raise NotImplementedError

    def clean_step(self, i: int, history: Sequence[Any], noise: Tensor | None) -> StepMap:
        """Where step i leads from states [direction, sample, ...], the clean path's history and noise held."""
        raise NotImplementedError

    def costs(self, i: int) -> dict[str, np.ndarray]:
        """What the calls of step i cost, as it is written; empty where it is not measured."""
        return {}

    def decode(self, x0: Tensor) -> np.ndarray:
        """Final states, or predicted ones, [sample, ...] -> uint8 [sample, y, x, 3]."""
        raise NotImplementedError


@dataclass
class Sampled(Unit):
    """A unit whose steps are taken by one of this project's samplers, all lanes in one batch.

    memories: what lanes of caches and of fewer steps remember. meter: what measures the cost of the calls, in the first
    unit of a run that records it.
    """

    batches: Batches
    memories: Memories = field(default_factory=Memories)
    meter: Meter | None = None

    def step(self, i: int, lanes: Sequence[Lane], measured: int) -> Shown:
        """Evaluate these lanes together. The noise is drawn, on the CPU, while a GPU evaluates."""
        plan = self.plan
        states = torch.stack([self.state(lane.state) for lane in lanes])
        recorded: list[dict[str, Tensor]] = []

        def predict(x: Tensor, level: Level) -> Prediction:
            first = not recorded
            prediction, taken = self.evaluate(
                i, lanes, x, level, measured if first else 0, self.meter if first else None
            )
            recorded.append(taken)
            return prediction

        prediction, move = advance(plan.sampler, plan.schedule, i, states, predict, self._history(lanes))
        noise = self._noise(i)
        eps, x0 = epsilon_and_x0(plan.schedule, i, states, prediction.value)
        landed, mean = moved_otherwise(
            plan.schedule, i, lanes, states, prediction, (move.land(noise), move.mean), noise
        )
        at, earlier = {lane: k for k, lane in enumerate(lanes)}, [Earlier(*pair) for pair in zip(eps, x0, strict=True)]
        return Shown(at, eps, x0, landed, mean, earlier, recorded[0], noise)

    def clean_step(self, i: int, history: Sequence[Earlier], noise: Tensor | None) -> StepMap:
        """The map of the state alone, as torch can differentiate it."""
        plan = self.plan

        def landed(states: Tensor) -> Tensor:
            def predict(states: Tensor, level: Level) -> Prediction:
                moment = Moment(i, plan.schedule.steps, *level)
                return self.batches.evaluate(states, moment, [CLEAN.spec] * len(states), measured=0)[0]

            held = [Earlier(*(part.expand_as(states) for part in earlier)) for earlier in history]
            return advance(plan.sampler, plan.schedule, i, states, predict, held)[1].land(noise)

        return landed

    def costs(self, i: int) -> dict[str, np.ndarray]:
        """What the meter says of it."""
        return {} if self.meter is None else self.meter.of_step(self.plan, len(self.samples), i)

    def decode(self, x0: Tensor) -> np.ndarray:
        """By the denoiser."""
        return self.plan.denoiser.decode(x0)

    def evaluate(
        self,
        i: int,
        lanes: Sequence[Lane],
        states: Tensor,
        level: Level,
        measured: int,
        meter: Meter | None = None,
    ) -> tuple[Prediction, dict[str, Tensor]]:
        """Predictions [lane, sample, ...] of these lanes at these states, what the seam recorded of the first ones."""
        moment, asking = (
            Moment(i, self.plan.schedule.steps, *level),
            Asking(lanes, i, self.plan.schedule, self.memories),
        )
        asked, seen = asking.asked, len(asked_lanes(lanes[:measured], i, self.plan.schedule.steps))
        memories = [self.memories.of(lane) for lane in asked]
        specs = [lane.spec for lane in asked]
        predicted, taken = self.batches.evaluate(asking.states(states), moment, specs, seen, memories, meter)
        return asking.answers(level, states, predicted), asking.recorded(measured, taken)

    def _history(self, lanes: Sequence[Lane]) -> list[Earlier]:
        """What the sampler may read of earlier steps, [lane, sample, ...] each."""
        paths = [self.path(lane.state) for lane in lanes]
        return [Earlier(*map(torch.stack, zip(*step, strict=True))) for step in zip(*paths, strict=True)]

    def _noise(self, i: int) -> Tensor | None:
        """The noise of step i; none in the last step, and in a sampler that draws none."""
        plan = self.plan
        if not draws_noise(plan) or i + 1 == plan.schedule.steps:
            return None
        shape, fork, like = plan.denoiser.shape, plan.request.fork, self.x
        if plan.request.noise == "coupled":
            kept = kept_signal(plan.denoiser.scheduler)
            return coupled_noise(self.samples, i, shape, like, schedule=plan.schedule, kept=kept, fork=fork)
        return sample_noise(self.samples, i, shape, like, fork)


@contextmanager
def sampled(plan: Plan, samples: Sequence[Sample], record: Iterable[str], limits: Limits | None) -> Iterator[Sampled]:
    """A unit at its start, x_T, its denoiser opened."""
    like = torch.empty(0, dtype=plan.denoiser.dtype, device=plan.denoiser.device)
    x = sample_noise(samples, -1, plan.denoiser.shape, like)
    with batches(plan, samples, record, limits) as opened:
        yield Sampled(plan, samples, x, opened, meter=meter(plan, samples))


def batches(plan: Plan, samples: Sequence[Sample], record: Iterable[str] = (), limits: Limits | None = None) -> Batches:
    """The plan's denoiser, opened for these samples in batches that fit the memory."""
    opened = partial(plan.denoiser.opened, guidance=plan.guidance, mask_seed=plan.mask_seed, record=sorted(record))
    halves = 1 if plan.guidance == 1 else 2
    counts = zip(plan.arms, plan.asked(samples).sum(axis=1).tolist(), strict=True)
    few = {arm.spec: count for arm, count in counts if count < len(samples)}
    return Batches(
        opened, samples, limits or Limits(), halves=halves, removed=most_removed(plan), few=few,
        network=optional_parts(plan.denoiser).model, alone=any(isinstance(arm.spec, Change) for arm in plan.arms),
    )  # fmt: skip


def draws_noise(plan: Plan) -> bool:
    """Whether the steps of the run, or of an arm with another sampler, draw noise."""
    others = [SAMPLERS[arm.spec.sampler] for arm in plan.arms if isinstance(arm.spec, OtherSampler)]
    return any(sampler.stochastic for sampler in (plan.sampler, *others))


def most_removed(plan: Plan) -> int:
    """Keys removed by the arm that removes most of those that remove a given number; at least 1, a stored size."""
    removals = [arm.spec for arm in plan.arms if isinstance(arm.spec, KeyRemoval)]
    return max([spec.count for spec in removals if spec.matching != "mass"] + [1])


def by_mass(plan: Plan) -> bool:
    """Whether some arm removes as many keys as it takes to reach a mass."""
    return any(isinstance(arm.spec, KeyRemoval) and arm.spec.matching == "mass" for arm in plan.arms)
