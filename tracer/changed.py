"""Arms that change the network or the way the state moves: which lanes the network is asked in, and what they remember.

A lane under a cache has a memory, which belongs to its path as its state does. A lane of fewer steps is answered, in
the steps between, with the clean-image prediction that it holds. A diluted lane is mixed with the clean network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interventions import Intervention
from interventions.changes.base import Change
from interventions.changes.fewer import FewerSteps, OtherSampler
from tracer.batches import LaneMemory
from tracer.lanes import CLEAN, Lane, asked_lanes
from tracer.samplers.advance import advance
from tracer.samplers.base import Level, Prediction, Schedule, epsilon_and_x0, value_of_x0
from tracer.samplers.registry import SAMPLERS


@dataclass
class Memories:
    """What the lanes of a unit remember, by state and intervention."""

    kept: dict[tuple[Any, Intervention], LaneMemory] = field(default_factory=dict)
    held: dict[tuple[Any, Intervention], Prediction] = field(default_factory=dict)

    def of(self, lane: Lane) -> LaneMemory | None:
        """The memory of this lane's path; None for one that remembers nothing.

        A path that forks from the clean states, where its arm departs, starts with a copy of the memory made along
        them. So all of a step's are asked for before any lane is evaluated.
        """
        if not isinstance(lane.spec, Change) or not lane.spec.remembers:
            return None
        if (lane.state, lane.spec) not in self.kept:
            along = self.kept.get(("clean", lane.spec), {})
            self.kept[lane.state, lane.spec] = {part: lane.spec.forked(memory) for part, memory in along.items()}
        return self.kept[lane.state, lane.spec]

    def hold(self, lane: Lane, prediction: Prediction) -> None:
        """Keep a prediction, as clean image [sample, ...], for the steps between."""
        self.held[lane.state, lane.spec] = prediction

    def holding(self, lane: Lane) -> Prediction:
        """What this lane's path holds; at its first step after the departure what was held along the clean states."""
        return self.held.get((lane.state, lane.spec)) or self.held["clean", lane.spec]


@dataclass(frozen=True)
class Asking:
    """One question to the network at step i: which of the lanes it is asked in, and the answers of all of them."""

    lanes: Sequence[Lane]
    i: int
    schedule: Schedule
    memories: Memories

    @property
    def asked(self) -> list[Lane]:
        """The lanes that the network is asked in."""
        return asked_lanes(self.lanes, self.i, self.schedule.steps)

    def states(self, states: Tensor) -> Tensor:
        """Of states [lane, ...] those that the network is shown, [asked lane, ...]."""
        first: dict[Lane | None, int] = {}
        for k, lane in enumerate(self._askers):
            first.setdefault(lane, k)
        places = [first[lane] for lane in self.asked]
        return states if places == list(range(len(states))) else states[places]

    def answers(self, level: Level, states: Tensor, predicted: Prediction) -> Prediction:
        """The predictions of all lanes at their states, from those that the network was asked for."""
        asked, askers = self.asked, self._askers
        if askers == asked and not any(lane.diluted for lane in self.lanes):
            return predicted
        at = {lane: k for k, lane in enumerate(asked)}
        rows = [
            self._held(lane, level, states[k]) if asker is None else _row(predicted, at[asker])
            for k, (lane, asker) in enumerate(zip(self.lanes, askers, strict=True))
        ]
        for k, lane in enumerate(self.lanes):
            if lane.diluted:
                rows[k] = _mixed(_row(predicted, at[Lane(lane.state, CLEAN.spec)]), rows[k], lane.spec.scope.strength)
            elif isinstance(lane.spec, FewerSteps) and askers[k] is not None:
                x0 = epsilon_and_x0(self.schedule, level, states[k], rows[k].value)[1]
                self.memories.hold(lane, Prediction(x0, rows[k].variance))
        learned = [row.variance for row in rows if row.variance is not None]
        return Prediction(torch.stack([row.value for row in rows]), torch.stack(learned) if learned else None)

    def recorded(self, measured: int, taken: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the seam recorded, of the first `measured` lanes; NaN, or -1, where the network was not asked."""
        at = {lane: k for k, lane in enumerate(self.asked)}
        places = [None if asker is None else at[asker] for asker in self._askers[:measured]]
        if places == list(range(len(places))):
            return taken
        return {name: torch.stack([_seen(value, place) for place in places]) for name, value in taken.items()}

    @property
    def _askers(self) -> list[Lane | None]:
        return [lane.asked(self.i, self.schedule.steps) for lane in self.lanes]

    def _held(self, lane: Lane, level: Level, x: Tensor) -> Prediction:
        held = self.memories.holding(lane)
        return Prediction(value_of_x0(self.schedule, level, x, held.value), held.variance)


def moved_otherwise(
    schedule: Schedule,
    i: int,
    lanes: Sequence[Lane],
    states: Tensor,
    prediction: Prediction,
    moved: tuple[Tensor, Tensor],
    noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Where step i leads and its mean, [lane, ...] each, with the lanes of other samplers moved by these."""
    others = {k: lane.spec.sampler for k, lane in enumerate(lanes) if isinstance(lane.spec, OtherSampler)}
    if not others:
        return moved
    landed, mean = (value.clone() for value in moved)
    for k, name in others.items():
        _, move = advance(SAMPLERS[name], schedule, i, states[k], partial(_known, _row(prediction, k)), [])
        landed[k], mean[k] = move.land(noise), move.mean
    return landed, mean


def _known(prediction: Prediction, x: Tensor, level: Level) -> Prediction:
    return prediction


def _row(prediction: Prediction, k: int) -> Prediction:
    return Prediction(prediction.value[k], None if prediction.variance is None else prediction.variance[k])


def _mixed(clean: Prediction, changed: Prediction, dose: float) -> Prediction:
    """F + a (G - F), of the prediction and of the learned variance."""
    variance = None
    if clean.variance is not None and changed.variance is not None:
        variance = torch.lerp(clean.variance, changed.variance, dose)
    return Prediction(torch.lerp(clean.value, changed.value, dose), variance)


def _seen(value: Tensor, place: int | None) -> Tensor:
    if place is not None:
        return value[place]
    return torch.full_like(value[0], torch.nan if value.is_floating_point() else -1)
