"""Steps of a scheduler taken for trial: by a copy, in float64 on the CPU, with noise that is handed to it.

A scheduler acts on every element of a state by itself, so a trial puts its cases side by side: the first elements of
one state.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.draws import drawn_from
from tracer.samplers.base import SamplerError

Call = Mapping[str, Any]
"""The arguments of one `scheduler.step` but for the model's output and the sample; at least `timestep`."""
HANDED_ON = "old_pred_original_sample"
"""The argument in which a pipeline hands a step what the step before returned (CogVideoX's DPM solver)."""
SMALL = 1e-3
"""Size of trial states on which no clipping and no threshold acts."""


@dataclass(frozen=True)
class Shapes:
    """Of the states that a scheduler is tried with, one sample, and of the network's answers where they are wider."""

    state: tuple[int, ...] = (1, 4, 2, 2)
    answer: tuple[int, ...] | None = None

    def of_state(self, cases: Sequence[float] | Tensor) -> Tensor:
        """A state whose first elements are these, float64; the others are zero."""
        return _laid(cases, self.state)

    def of_answer(self, cases: Sequence[float] | Tensor) -> Tensor:
        """An answer whose first elements are these, float64; the others are zero."""
        return _laid(cases, self.answer or self.state)

    @classmethod
    def like(cls, sample: Tensor, answer: Tensor) -> Shapes:
        """Small shapes with the dimensions and channels of a real state and answer; packed ones have channels last."""

        def small(tensor: Tensor) -> tuple[int, ...]:
            if tensor.dim() == 3:
                return (1, 4, tensor.shape[-1])
            return (1, tensor.shape[1], *([2] * (tensor.dim() - 2)))

        return cls(small(sample), small(answer))


def usual_shapes(scheduler: Any) -> Shapes:
    """Where none are named: four channels, with as many for a learned variance where the scheduler reads one."""
    learned = str(scheduler.config.get("variance_type") or "").startswith("learned")
    return Shapes(answer=(1, 8, 2, 2)) if learned else Shapes()


def _laid(cases: Sequence[float] | Tensor, shape: tuple[int, ...]) -> Tensor:
    flat = torch.zeros(shape, dtype=torch.float64).flatten()
    flat[: len(cases)] = torch.as_tensor(cases, dtype=torch.float64)
    return flat.reshape(shape)


def as_calls(scheduler: Any, calls: Sequence[Any], shapes: Shapes) -> list[Call]:
    """The calls of a run's steps, all their arguments or their timesteps alone, for trials with states of other sizes.

    Tensors of two or more dimensions belong to the real states: they are left out where they may be. What a pipeline
    hands on from step to step is zero, and None in the first.
    """
    parameters = inspect.signature(type(scheduler).step).parameters
    tried: list[Call] = []
    for i, call in enumerate(calls):
        kept: dict[str, Any] = {}
        for name, value in (call if isinstance(call, Mapping) else {"timestep": call}).items():
            foreign = isinstance(value, Tensor) and value.dim() >= 2 and value.shape != shapes.state
            if not foreign or parameters[name].default is inspect.Parameter.empty:
                kept[name] = value.detach().cpu() if isinstance(value, Tensor) else value
        if isinstance(timestep := kept["timestep"], Tensor) and timestep.dim() == 1:
            kept["timestep"] = timestep[:1].expand(shapes.state[0])
        if HANDED_ON in parameters:
            kept[HANDED_ON] = shapes.of_state([]) if i else None
        if "return_dict" in parameters:
            kept["return_dict"] = True
        tried.append(kept)
    return tried


def copied(scheduler: Any) -> Any:
    """A copy of a scheduler that holds its tables on the CPU."""
    second = memory.twin(scheduler)
    vars(second).update({name: value.cpu() for name, value in vars(second).items() if isinstance(value, Tensor)})
    return second


def ready(scheduler: Any, call: Call, sample: Tensor) -> None:
    """Bring a scheduler to where it stands when a step begins: pipelines scale the network's input before it."""
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(sample, call["timestep"])
    if getattr(scheduler, "_step_index", 0) is None and hasattr(scheduler, "_init_step_index"):
        scheduler._init_step_index(call["timestep"])


def stepped(scheduler: Any, call: Call, answer: Tensor, sample: Tensor, noise: Tensor | None = None) -> Any:
    """What the scheduler's step returns; the scheduler moves on. Without `noise` [state] its draws are zero.

    Raises SamplerError where the step cannot be taken.
    """
    ready(scheduler, call, sample)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64) if noise is None else noise.reshape(shape)

    try:
        with drawn_from(scheduler, draw):
            return scheduler.step(answer, sample=sample, **call)
    except SamplerError:
        raise
    except Exception as error:
        kind = type(scheduler).__name__
        raise SamplerError(f"a step of {kind} could not be tried: {type(error).__name__}: {error}") from error


def handing(call: Call, state: Tensor) -> Call:
    """The call with this in the place of what the pipeline hands on, if it hands on anything."""
    return call if call.get(HANDED_ON) is None else {**call, HANDED_ON: state}


def landed(returned: Any) -> Tensor:
    """Where a step leads, from what it returns: a tuple or an output of diffusers."""
    return returned[0] if isinstance(returned, tuple) else returned.prev_sample


def cases(state: Tensor, count: int) -> list[float]:
    """The first elements of a state."""
    return state.flatten()[:count].tolist()
