"""The states of one unit of samples while it runs, and the network calls that move them.

A unit holds the clean state, the states of every arm's paths, and what a sampler reads of earlier steps. What the
states mean and where they go is `tracer.trajectory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interventions.spec import Full, KeyRemoval
from tracer.batches import Batches, Limits
from tracer.denoisers.base import Moment, Sample
from tracer.lanes import Lane
from tracer.plan import Plan
from tracer.samplers.advance import advance
from tracer.samplers.base import Earlier, Level, Move, Prediction


@dataclass
class Unit:
    """The states of one unit of samples while it runs.

    `x`: the clean state [sample, channel, y, x]. `states`: what the other lanes of the next step read, by the names of
    `lanes.Lane`. `pushes`: every arm's last injection. `sums`: sum -> arm -> contributions so far. `tangents`: the
    injections carried by the clean step's linear map; `reaches`: how many of them the lanes "ahead" and "behind" are
    away from the clean state. `past`: for every path what its earlier steps predicted, the
    latest first, as far back as the sampler reads. `finite`: per step, which lanes [lane, sample] led to a finite
    state; it stays on the device.
    """

    plan: Plan
    samples: Sequence[Sample]
    batches: Batches
    x: Tensor

    def __post_init__(self) -> None:
        self.states: dict[Any, Tensor] = {}
        self.pushes: dict[int, Tensor] = {}
        self.sums: dict[str, dict[int, Tensor]] = {}
        self.tangents: dict[int, Tensor] = {}
        self.reaches: dict[int, Tensor] = {}
        self.past: dict[Any, list[Earlier]] = {"clean": []}
        self.finite: list[Tensor] = []

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

    def history(self, lanes: Sequence[Lane]) -> list[Earlier]:
        """What the sampler may read of earlier steps, [lane, sample, ...] each; a pushed state has the clean path's."""
        paths = [self.past[lane.state if lane.state in self.past else "clean"] for lane in lanes]
        return [Earlier(*map(torch.stack, zip(*step, strict=True))) for step in zip(*paths, strict=True)]

    def remember(self, latest: Mapping[Any, tuple[Any, Earlier]]) -> None:
        """Add what the step predicted to the history of every path: path -> (the path it was on, its prediction)."""
        if depth := self.plan.sampler.history:
            self.past = {path: [earlier, *self.past[before]][:depth] for path, (before, earlier) in latest.items()}

    def step(self, i: int, lanes: Sequence[Lane], measured: int) -> tuple[Tensor, Prediction, Move, dict[str, Tensor]]:
        """States and first predictions [lane, sample, ...] of these lanes, where they lead, what the seam recorded.

        What is recorded of attention is that of the first `measured` lanes, in the first evaluation, at the level where
        the step starts.
        """
        states = torch.stack([self.state(lane.state) for lane in lanes])
        recorded: list[dict[str, Tensor]] = []

        def predict(x: Tensor, level: Level) -> Prediction:
            prediction, taken = self.evaluate(i, lanes, x, level, 0 if recorded else measured)
            recorded.append(taken)
            return prediction

        prediction, move = advance(self.plan.sampler, self.plan.schedule, i, states, predict, self.history(lanes))
        return states, prediction, move, recorded[0]

    def evaluate(
        self, i: int, lanes: Sequence[Lane], states: Tensor, level: Level, measured: int
    ) -> tuple[Prediction, dict[str, Tensor]]:
        """Predictions [lane, sample, ...] of these lanes at these states, what the seam recorded of the first ones."""
        moment = Moment(i, self.plan.schedule.steps, *level)
        return self.batches.evaluate(states, moment, [lane.spec for lane in lanes], measured)


def batches(plan: Plan, samples: Sequence[Sample], record: Iterable[str] = (), limits: Limits | None = None) -> Batches:
    """The plan's denoiser, opened for these samples in batches that fit the memory."""
    opened = partial(plan.denoiser.opened, guidance=plan.guidance, mask_seed=plan.mask_seed, record=sorted(record))
    halves = 1 if plan.guidance == 1 else 2
    counts = zip(plan.arms, plan.asked(samples).sum(axis=1).tolist(), strict=True)
    few = {arm.spec: count for arm, count in counts if count < len(samples)}
    return Batches(opened, samples, limits or Limits(), halves=halves, removed=most_removed(plan), few=few)


def most_removed(plan: Plan) -> int:
    """Keys removed by the arm that removes most; at least 1, the size of the stored dimension."""
    return max([arm.spec.count for arm in plan.arms if isinstance(arm.spec, KeyRemoval)] + [1])
