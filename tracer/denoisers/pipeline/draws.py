"""A scheduler's noise, handed to it: nearly all of diffusers' schedulers draw it with `randn_tensor` of their own file.

One that draws in another way is noticed by the random generators, which must stand where they stood.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tracer.samplers.base import SamplerError

Draw = Callable[[tuple[int, ...]], Tensor]
"""The shape of the noise that a step asks for -> the noise."""


@contextmanager
def drawn_from(scheduler: Any, draw: Draw, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Inside it the noise of this scheduler's steps is what `draw` says, in the dtype and on the device asked for.

    generators: those that the pipeline hands to the step. Raises SamplerError on leaving where one of them, or one of
    torch's own, was drawn from all the same; the scheduler is to be used inside for one step.
    """

    def randn_tensor(
        shape: Iterable[int], generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None
    ) -> Tensor:
        return draw(tuple(shape)).to(device=device, dtype=dtype or torch.get_default_dtype())

    generators = list(generators)
    before = _stand(generators)
    with ExitStack() as stack:
        for kind in type(scheduler).__mro__:
            module = sys.modules[kind.__module__]
            if (stock := getattr(module, "randn_tensor", None)) is not None:
                stack.callback(setattr, module, "randn_tensor", stock)
                module.randn_tensor = randn_tensor  # type: ignore[attr-defined]
        yield
    if any(not torch.equal(one, other) for one, other in zip(before, _stand(generators), strict=True)):
        raise SamplerError(draws_elsewhere(type(scheduler).__name__))


def draws_elsewhere(name: str) -> str:
    """What is said of a scheduler whose noise cannot be handed to it."""
    return (
        f"{name} draws its noise in a way of its own, so the noise of a step cannot be that of the sample's seed and "
        f"the step: schedulers that draw with diffusers' randn_tensor can be traced; set another one, for example "
        f"pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)"
    )


def _stand(generators: Iterable[torch.Generator]) -> list[Tensor]:
    """Where the generators stand, and torch's own on all devices in use."""
    states = [torch.get_rng_state(), *(generator.get_state() for generator in generators)]
    return states + (torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])
