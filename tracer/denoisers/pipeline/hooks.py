"""Where a diffusers pipeline is listened to while it runs: its denoiser's forward and `scheduler.step`.

Everything is put back on leaving, also after an exception. What is done at the two places is the caller's business.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

DENOISERS = ("transformer", "transformer_2", "unet", "prior")
"""Where diffusers' pipelines keep the network that is asked in every step."""
OnDenoise = Callable[[torch.nn.Module, Callable[..., Any], tuple, dict], Any]
OnStep = Callable[[Callable[..., Any], inspect.BoundArguments], Any]
_MISSING = object()


def denoisers(pipe: Any) -> list[torch.nn.Module]:
    """The networks that a pipeline asks in its steps, in order; two where one takes over from the other (Wan 2.2)."""
    parts = (getattr(pipe, name, None) for name in DENOISERS)
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def bare(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself where `torch.compile` holds it."""
    inner: torch.nn.Module = getattr(network, "_orig_mod", network)
    return inner


@contextmanager
def hooked(pipe: Any, on_denoise: OnDenoise, on_step: OnStep) -> Iterator[None]:
    """Inside it `on_denoise(module, stock forward, args, kwargs)` answers for every forward of a denoiser, and
    `on_step(stock step, bound arguments)` for every step of the scheduler.

    The signature of `step` stays readable: pipelines look there for eta and generator.
    """
    scheduler = pipe.scheduler
    stock = scheduler.step
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def step(*args: Any, **kwargs: Any) -> Any:
        return on_step(stock, signature.bind(*args, **kwargs))

    with ExitStack() as stack:
        stack.enter_context(replaced(scheduler, "step", step))
        for part in denoisers(pipe):
            stack.enter_context(replaced(part, "forward", _told(part, part.forward, on_denoise)))
        yield


def _told(part: torch.nn.Module, stock: Callable[..., Any], on_denoise: OnDenoise) -> Callable[..., Any]:
    @functools.wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return on_denoise(part, stock, args, kwargs)

    return forward


@contextmanager
def replaced(owner: Any, name: str, value: Any, *, missing: bool = False) -> Iterator[None]:
    """Inside it `owner.name` is another value. Nothing happens where it has none, unless `missing` may be filled in."""
    if not missing and not hasattr(owner, name):
        yield
        return
    before = vars(owner).get(name, _MISSING)
    vars(owner)[name] = value
    try:
        yield
    finally:
        if before is _MISSING:
            vars(owner).pop(name, None)
        else:
            vars(owner)[name] = before


@contextmanager
def shared(pipe: Any) -> Iterator[None]:
    """Let several calls of one pipeline with the same arguments run side by side.

    What does not depend on the state is computed by the first of them (`encode_prompt`, `encode_image`), offloaded
    parts are given back when all are done, not when the first is, and none draws a bar.
    """
    free = getattr(pipe, "maybe_free_model_hooks", lambda: None)
    try:
        with (
            replaced(pipe, "_progress_bar_config", {"disable": True}, missing=True),
            replaced(pipe, "maybe_free_model_hooks", lambda: None),
            replaced(pipe, "encode_prompt", once(getattr(pipe, "encode_prompt", None))),
            replaced(pipe, "encode_image", once(getattr(pipe, "encode_image", None))),
        ):
            yield
    finally:
        free()


def once(function: Callable[..., Any] | None) -> Callable[..., Any]:
    """The function, asked once for the same arguments."""
    known: list[tuple[tuple, dict, Any]] = []

    def answer(*args: Any, **kwargs: Any) -> Any:
        assert function is not None
        for same_args, same_kwargs, result in known:
            if _same(args, same_args) and _same(kwargs, same_kwargs):
                return result
        result = function(*args, **kwargs)
        known.append((args, kwargs, result))
        return result

    return answer if function is None else functools.wraps(function)(answer)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and one.device == other.device and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, str | int | float | bool | torch.device | torch.dtype):
        return one == other
    return False
