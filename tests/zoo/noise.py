"""The noise of a traced call, in a plain one: what a scheduler draws in a step comes from (seed, step) alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch

from tracer import Sample
from tracer.noise import sample_noise


@contextmanager
def same_noise(denoiser, seeds: Sequence[int], states: Sequence[torch.Tensor]) -> Iterator[None]:
    """Inside, the pipeline's scheduler draws the noise that `denoiser` is traced with.

    `states`: those of the steps made so far, which say how many there were. A second draw in a step has a number of
    its own, as many further on as there are steps.
    """
    samples = [Sample(i, seed) for i, seed in enumerate(seeds)]
    drawn: list[int] = []

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        drawn.append(len(states))
        number = len(states) + (drawn.count(len(states)) - 1) * denoiser.schedule.steps
        noise = denoiser.packed(sample_noise(samples, number, denoiser.shape, torch.empty(0)))
        assert tuple(noise.shape) == tuple(shape)
        return noise.to(dtype)

    with patch.object(*_drawing(denoiser.pipe.scheduler), randn_tensor):
        yield


def _drawing(scheduler) -> tuple[object, str]:
    module = sys.modules[type(scheduler).__module__]
    return (module, "randn_tensor") if hasattr(module, "randn_tensor") else (_Nowhere, "randn_tensor")


class _Nowhere:
    randn_tensor: Callable | None = None
