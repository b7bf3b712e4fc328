"""One call of a pipeline for one sample, its network asked once: what can only be known by running it to its end.

Which timesteps it takes, how large its pictures are, and which attention runs in its network.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interventions.seam.attend import Site
from interventions.seam.calls import Call as AttentionCall
from interventions.seam.recorder import Recorder
from interventions.spec import Clean
from tracer.denoisers.pipeline import memory
from tracer.denoisers.pipeline.draws import drawn_from
from tracer.denoisers.pipeline.hooks import denoisers, hooked, shared
from tracer.denoisers.pipeline.passes import generators_of
from tracer.denoisers.pipeline.pictures import pictures
from tracer.denoisers.pipeline.trying import ProbeError


@dataclass(frozen=True)
class Rehearsed:
    """scheduler: a twin of the pipeline's, as it stands before the first step. steps: the arguments of its steps, but
    for state and output. sample: the first step's state, in the pipeline's own form. image_size: (y, x) of the
    pictures. sites: name of the block for each layer. heads: at most. backends: of attention, as the user had them.
    asked: evaluations of the network for one sample in a step, those of guidance included.
    """

    scheduler: Any
    steps: tuple[Mapping[str, Any], ...]
    sample: Tensor
    image_size: tuple[int, int]
    sites: tuple[str, ...]
    heads: int
    backends: tuple[str, ...]
    asked: int


def rehearse(pipe: Any, call: Mapping[str, Any], seam: Callable[..., Any], rows: int) -> Rehearsed:
    """Run the call for one sample under a clean seam, `seam(module, intervention, watch=)`, and look.

    The network's first answer of the first step stands for all others, so the picture shows nothing. rows: of a batch
    of the network. Raises ProbeError where attention has others: it then goes over parts of a sample.
    """
    steps: list[dict[str, Any]] = []
    begun: list[Any] = []  # the scheduler's memory and the state, as the first step begins
    answers: list[Any] = []
    recorders: list[Recorder] = []
    heads: dict[tuple[str, int], int] = {}

    def on_denoise(module: torch.nn.Module, stock: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        if not steps:
            answers.append(stock(*args, **kwargs))
            return answers[-1]
        return copy.deepcopy(answers[0])

    def on_step(stock: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        if not steps:
            begun.extend((memory.of(pipe.scheduler), bound.arguments["sample"]))
        steps.append({name: value for name, value in bound.arguments.items() if name not in ("sample", "model_output")})
        with drawn_from(pipe.scheduler, torch.zeros, generators_of(bound)):
            return stock(*bound.args, **bound.kwargs)

    def watch(site: Site, call: AttentionCall) -> None:
        heads[site.name, site.layer] = call.query.shape[1]
        if call.batch != rows:
            raise ProbeError(
                f"{site.name} attends within {call.batch // rows} parts of a sample apart, {call.lengths[0]} tokens "
                "each (frames of a video, or places over its frames): such networks cannot be masked yet, those that "
                "attend over all frames at once can (trace models)"
            )

    before, scheduler = memory.of(pipe.scheduler), memory.twin(pipe.scheduler)
    with torch.no_grad(), torch.random.fork_rng(), ExitStack() as stack:
        stack.callback(memory.put, pipe.scheduler, before)
        for module in denoisers(pipe):
            recorders.append(stack.enter_context(seam(module, Clean(), watch=watch)))
        stack.enter_context(shared(pipe))
        stack.enter_context(hooked(pipe, on_denoise, on_step))
        shown = pictures(pipe(**call))
    memory.put(scheduler, begun[0])
    sites = [*recorders[0].unreachable, *recorders[0].sites]
    names = {site.layer: site.name.rpartition(".")[0] or site.name for site in sites}
    return Rehearsed(
        scheduler=scheduler,
        steps=tuple(steps),
        sample=begun[1],
        image_size=(shown.shape[1], shown.shape[2]),
        sites=tuple(names[layer] for layer in range(1 + max(names))),
        heads=max(heads.values()),
        asked=len(answers) * rows,
        backends=tuple(dict.fromkeys(name for recorder in recorders for name in recorder.backends)),
    )
