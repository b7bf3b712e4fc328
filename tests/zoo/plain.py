"""Plain calls of a pipeline, without the tracer: its pictures, and the shapes of its attention calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

DENOISERS = ("transformer", "transformer_2", "unet", "prior")


def plain(pipeline: Any, call: dict[str, Any], seeds: Sequence[int]) -> np.ndarray:
    """[sample, ..., y, x, colour] in [0, 1]: what `pipeline(**call)` gives, one generator a sample; global seed 0, too.

    DiTPipeline hands its scheduler no generator: with DDPM its noise is the global one.
    """
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    generator = [torch.Generator().manual_seed(seed) for seed in seeds]
    return np.asarray(pipeline(**call, generator=generator, output_type="np", return_dict=False)[0])


@contextmanager
def latents(pipeline: Any, states: list[torch.Tensor]) -> Iterator[None]:
    """Inside, every step of the scheduler adds to `states` the state that it gives, [sample, ...]."""
    step = pipeline.scheduler.step

    @functools.wraps(step)  # pipelines read its signature
    def watched_step(*args, **kwargs):
        output = step(*args, **kwargs)
        states.append((output[0] if isinstance(output, tuple) else output.prev_sample).clone())
        return output

    pipeline.scheduler.step = watched_step
    try:
        yield
    finally:
        del pipeline.scheduler.step


@contextmanager
def decoded(pipeline: Any, read: list[torch.Tensor]) -> Iterator[None]:
    """Inside, what the pipeline's decoder is given is added to `read`."""
    decode = pipeline.vae.decode

    @functools.wraps(decode)
    def watched_decode(latent, *args, **kwargs):
        read.append(latent.clone())
        return decode(latent, *args, **kwargs)

    pipeline.vae.decode = watched_decode
    try:
        yield
    finally:
        del pipeline.vae.decode


class _Watch(TorchFunctionMode):
    def __init__(self, note: Callable[[int, int], None]):
        super().__init__()
        self.note = note

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, key = (*args, kwargs.get("query"), kwargs.get("key"))[:2]
            key = kwargs.get("key", key)
            self.note(query.shape[-2], key.shape[-2])
        return function(*args, **kwargs)


@contextmanager
def watched(pipeline: Any, calls: list[list[tuple[int, int]]]) -> Iterator[None]:
    """Inside, each forward of a denoiser adds the (queries, keys) of its attention calls to `calls`."""
    modules = [m for name in DENOISERS if (m := getattr(pipeline, name, None)) is not None]
    stock = [module.forward for module in modules]

    def watching(forward):
        def run(*args, **kwargs):
            calls.append([])
            with _Watch(lambda n_query, n_key: calls[-1].append((n_query, n_key))):
                return forward(*args, **kwargs)

        return run

    for module, forward in zip(modules, stock, strict=True):
        module.forward = watching(forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def attention_shapes(pipeline: Any, call: dict[str, Any]) -> list[list[tuple[int, int]]]:
    """(queries, keys) of every attention call, for each call of the denoiser."""
    calls: list[list[tuple[int, int]]] = []
    with watched(pipeline, calls):
        plain(pipeline, call, (0, 1))
    return calls
