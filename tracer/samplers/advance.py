"""Takes one step of a sampler, asking a network as often as the step needs it.

Which network that is, and under which interventions, is the caller's business (`tracer.trajectory`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tracer.samplers.base import Earlier, Level, Move, Prediction, Probe, Sampler, SamplerError, Schedule


def advance(
    sampler: Sampler,
    schedule: Schedule,
    i: int,
    x: Tensor,
    predict: Callable[[Tensor, Level], Prediction],
    history: Sequence[Earlier],
) -> tuple[Prediction, Move]:
    """One step of a sampler: the first prediction, and where the step leads.

    `predict` is asked at (x, level i) and wherever the sampler probes. Raises SamplerError where a step never ends.
    """
    predictions = [predict(x, schedule.level(i))]
    while isinstance(outcome := sampler.step(schedule, i, x, predictions, history), Probe):
        if len(predictions) == sampler.evaluations:
            raise SamplerError(
                f"sampler {sampler.name!r} asks for more than its {sampler.evaluations} evaluations a step"
            )
        predictions.append(predict(outcome.state, outcome.level))
    return predictions[0], outcome


def evaluations_of_step(sampler: Sampler, schedule: Schedule, i: int) -> int:
    """How often step i asks the network, found by taking the step with a network that answers zero."""
    if sampler.evaluations == 1:
        return 1
    zero = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
    asked = 0

    def predict(states: Tensor, level: Level) -> Prediction:
        nonlocal asked
        asked += 1
        return Prediction(zero)

    advance(sampler, schedule, i, zero, predict, [Earlier(zero, zero)] * min(i, sampler.history))
    return asked
