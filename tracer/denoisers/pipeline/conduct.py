"""What a scheduler's steps do with a state and a prediction, found by trying: their factors, noise and memory.

Without a past most steps are affine, x' = p x + q D + noise, with D the clean image that the network's answer is taken
for. A step that clips, thresholds or reads what earlier steps left has no such factors, and is said to have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, nan
from typing import Any

import numpy as np
import torch

from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.draws import draws_elsewhere
from tracer.denoisers.pipeline.levels import exact_step, level_of, prediction_of
from tracer.denoisers.pipeline.predictions import denoised_factors
from tracer.denoisers.pipeline.stepping import (
    SMALL,
    Call,
    Shapes,
    as_calls,
    cases,
    copied,
    handing,
    landed,
    stepped,
    usual_shapes,
)
from tracer.samplers.base import SamplerError

LARGE = 100.0
"""Size of the states in which a step is tried for clipping and thresholds: they act on clean images beyond 1."""
BENDING = ("clip_sample", "thresholding", "clip_denoised")
"""Settings of diffusers' schedulers that make a step bend."""


@dataclass(frozen=True)
class Conduct:
    """What the steps of a scheduler were seen to do.

    state_factor, prediction_factor: p and q of every step, float64 [T], NaN where it has none. stochastic: whether a
    step draws noise. history: whether a step reads what earlier ones left behind. bent: why a step is not affine, as a
    clause; "" where all are.
    """

    scheduler: str
    state_factor: np.ndarray
    prediction_factor: np.ndarray
    stochastic: bool
    history: bool
    bent: str

    @property
    def no_null(self) -> str:
        """Why the additive null is not defined, as a clause about the scheduler; "" where it is."""
        if self.history:
            return f"{self.scheduler} reads what earlier steps left behind, so an injection enters more than one state"
        return self.bent


def conduct(scheduler: Any, timesteps: Sequence[Any], shapes: Shapes | None = None) -> Conduct:
    """Try the steps of a scheduler as it stands before the first of them; `timesteps` as for `levels.schedule`.

    Raises SamplerError where a step cannot be tried, and where its noise is not what is handed to it.
    """
    shapes = shapes or usual_shapes(scheduler)
    calls = as_calls(scheduler, timesteps, shapes)
    kind = prediction_of(scheduler, calls, shapes)
    blank, lived = copied(scheduler), copied(scheduler)
    factors, stochastic, history, bent = [], False, False, ""
    for call in calls:
        level = level_of(lived, call, kind, shapes)
        straight = _straight(blank, call, shapes)
        stochastic |= straight.spread != 0
        history |= not _rests(lived, handing(call, shapes.of_state([1])), shapes)
        skip, out = denoised_factors(scheduler, kind, level)
        factors.append((straight.state - straight.answer * skip / out, straight.answer / out))
        if straight.bends and not bent:
            bent = _why_bent(scheduler)
        stepped(blank, call, shapes.of_answer([]), shapes.of_state([]))
        exact_step(lived, call, kind, level, shapes)
    p, q = np.array(factors if not (history or bent) else [(nan, nan)] * len(calls), dtype=np.float64).T
    return Conduct(type(scheduler).__name__, p, q, stochastic, history, bent)


@dataclass(frozen=True)
class Straight:
    """A step as a map of state and answer, x' = state x + answer a + spread z, and whether it is none: it bends."""

    state: float
    answer: float
    spread: float
    bends: bool


def _straight(scheduler: Any, call: Call, shapes: Shapes) -> Straight:
    """Try a step of a scheduler whose past is zero, on copies of it."""
    states, answers = torch.tensor([1, 0, 0.37, 0, 0]).double(), torch.tensor([0, 1, -0.81, 0, 0]).double()
    moved = {}
    for size in (SMALL, LARGE):
        state, told = shapes.of_state(size * states), shapes.of_answer(size * answers)
        noise = shapes.of_state([0, 0, 0, size, 0])
        returned = stepped(memory.twin(scheduler), call, told, state, noise)
        moved[size] = [value / size for value in cases(landed(returned), len(states))]
    if moved[SMALL][4]:
        raise SamplerError(draws_elsewhere(type(scheduler).__name__))
    state_factor, answer_factor, mixed, spread, _ = moved[SMALL]
    expected = 0.37 * state_factor - 0.81 * answer_factor
    scale = max(abs(state_factor), abs(answer_factor))
    one, other = [mixed, *moved[LARGE][:3]], [expected, state_factor, answer_factor, expected]
    bends = not all(isclose(a, b, abs_tol=1e-5 * scale) for a, b in zip(one, other, strict=True))
    return Straight(state_factor, answer_factor, spread, bends)


def _rests(scheduler: Any, call: Call, shapes: Shapes) -> bool:
    """Whether a step of a scheduler with a past leaves nothing of nothing: no state, no answer, no noise."""
    returned = stepped(memory.twin(scheduler), call, shapes.of_answer([]), shapes.of_state([]))
    return not landed(returned).any()


def _why_bent(scheduler: Any) -> str:
    name = type(scheduler).__name__
    if settings := [setting for setting in BENDING if scheduler.config.get(setting)]:
        off = ", ".join(f"{setting}=False" for setting in settings)
        return (
            f"{name} changes clean images beyond 1 ({', '.join(settings)}), so its step is not affine in the state and "
            f"the prediction; where the model allows it, {name}.from_config(pipe.scheduler.config, {off}) does not"
        )
    return f"{name} makes a step that is not affine in the state and the prediction"
