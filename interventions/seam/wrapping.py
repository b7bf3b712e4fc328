"""Puts code around the forwards of a model and of its attention modules, and takes exactly that away again.

An attention module's fused calls are handed to a function that answers them, with their site; a module that makes
another number of them raises. The model's forward is watched for attention that no site answers (`outside`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from interventions.seam.calls import Call
from interventions.seam.lanes import Lanes
from interventions.seam.order import Order
from interventions.seam.outside import Lookout, form
from interventions.seam.recorder import Recorder
from interventions.seam.sites import SeamError, Site, fused, fused_forward

_running = threading.local()  # .answers: how many answers of the seam are being computed, one inside the other


class _Interceptor(TorchFunctionMode):
    """Hands every call of `F.scaled_dot_product_attention` to a handler, with its number, and counts them."""

    def __init__(self, handler: Callable[[int, Call], torch.Tensor]):
        super().__init__()
        self.handler = handler
        self.calls = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return self.handler(self.calls - 1, Call(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@dataclass
class _Attached:
    """What a wrapped forward is under: its lanes, and which of the module's calls is being answered."""

    lanes: Lanes
    call: int = 0


@contextlib.contextmanager
def wrapped_module(
    module: nn.Module,
    its_sites: Sequence[Site],
    recorder: Recorder,
    attention: Callable[[Recorder, Site, Call], torch.Tensor],
) -> Iterator[None]:
    """Let `attention` answer the fused calls of a module's forward, the n-th as the n-th of its sites."""
    stock, before = fused_forward(module), module.forward
    outer: _Attached | None = getattr(module.forward, "attached", None)
    if outer is not None:
        _nest(recorder.lanes, outer.lanes)
        stock = module.forward
    attached = _Attached(recorder.lanes)
    order = Order(module, its_sites[0], recorder.lanes.layout, asked=outer is not None)

    def answer(number: int, call: Call) -> torch.Tensor:
        order.check(call)
        attached.call = number if outer is None else outer.call  # the outer context may cut a call into several
        with _answering():
            return attention(recorder, its_sites[min(attached.call, len(its_sites) - 1)], call)

    @functools.wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if recorder.away:
            return before(*args, **kwargs)
        order.handed(stock, args, kwargs)
        interceptor = _Interceptor(answer)
        with fused(module), interceptor:
            result = stock(*args, **kwargs)
        if interceptor.calls != len(its_sites) and not (outer is not None and interceptor.calls):
            raise SeamError(_miscounted(module, its_sites, interceptor.calls))
        recorder.reached.update(site.index for site in its_sites)
        return result

    forward.attached = attached  # type: ignore[attr-defined]
    try:
        with replaced_forward(module, forward):
            yield
    finally:
        if outer is not None:
            outer.lanes.nested = False


@contextlib.contextmanager
def watched_model(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Note that forwards ran, and look for attention outside of every site in the first and in each of another form."""
    stock, seen = model.forward, set()

    @functools.wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if recorder.away:
            return stock(*args, **kwargs)
        recorder.ran = True
        inputs = form((args, kwargs))
        if inputs in seen:
            return stock(*args, **kwargs)
        lookout = Lookout(model, recorder.lanes.sites, answering=lambda: bool(getattr(_running, "answers", 0)))
        with lookout:
            result = stock(*args, **kwargs)
        lookout.check()
        seen.add(inputs)
        return result

    with replaced_forward(model, forward):
        yield


@contextlib.contextmanager
def replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Let a module's forward be this one, and put back what it had."""
    missing = object()
    before = vars(module).get("forward", missing)
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is missing:
            del module.forward
        else:
            module.forward = before  # type: ignore[method-assign]


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    _running.answers = getattr(_running, "answers", 0) + 1
    try:
        yield
    finally:
        _running.answers -= 1


def _nest(inner: Lanes, outer: Lanes) -> None:
    if len(inner) > 1 or len(outer) > 1:
        raise SeamError("nested attend contexts take one lane each; give all lanes to a single attend instead")
    inner.nested = outer.nested = True


def _miscounted(module: nn.Module, its_sites: Sequence[Site], calls: int) -> str:
    """Why a forward of a module that made another number of attention calls cannot be trusted, and what to type."""
    name, declared = its_sites[0].name, len(its_sites)
    if calls:
        return (
            f"{name} makes {calls} attention calls in one forward, not {declared}: a mask would act on the wrong ones; "
            f"say so with attend(..., calls={{{name!r}: {calls}}})"
        )
    return (
        f"{name} called F.scaled_dot_product_attention 0 times: "
        f"{type(getattr(module, 'processor', module)).__name__} computes attention in another way, so nothing can be "
        "done to it; set a processor that calls it (of diffusers: model.set_attn_processor(AttnProcessor2_0())), or, "
        f"if it has no softmax, leave it alone with attend(..., unreachable=[{name!r}])"
    )
