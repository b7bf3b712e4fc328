"""Watches the attention calls of one forward of a denoiser, and may answer them in its place.

It masks and measures nothing: that is the seam's (`interventions.seam`), which it shares the list of sites with.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from interventions.seam.calls import Call
from interventions.seam.natives import native
from interventions.seam.outside import Lookout
from interventions.seam.sites import fused, fused_forward, sites
from tracer.denoisers.pipeline.hooks import replaced

Answer = Callable[[str, Call], torch.Tensor]
"""Told the site, named as the seam names it (`attn`, `attn#1` for a module's second call), and the call; gives what the
call gives."""
Forward = Callable[[], Any]


@dataclass(frozen=True)
class Attention:
    """The attention of one forward: (site, queries, keys) of every call, in order.

    `declared`: modules that are no attention by their class and yet make softmax calls, with their number.
    `elsewhere`: modules that compute attention in another way, outside of every site.
    """

    calls: tuple[tuple[str, int, int], ...] = ()
    declared: Mapping[str, int] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()


@contextmanager
def answered(model: torch.nn.Module, answer: Answer, declared: Mapping[str, int] | None = None) -> Iterator[None]:
    """Inside it `answer` stands in for every softmax attention call of the model's sites; calls outside them run.

    Whatever attention backend is set, calls are made the native way meanwhile.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile holds
    names: list[Iterator[str]] = []
    with ExitStack() as stack:
        stack.enter_context(native(model))
        for site in sites(model, declared):
            if site.call == 0:
                stack.enter_context(fused(site.module))
                forward = _named(site.name, fused_forward(site.module), names)
                stack.enter_context(replaced(site.module, "forward", forward))
        stack.enter_context(_Answering(lambda call: answer(next(names[-1]), call) if names else call.run()))
        yield


def watched(model: torch.nn.Module, forward: Forward) -> tuple[Any, Attention]:
    """What `forward()` gives, and the attention that it computes. Twice, where some of it was of no known class."""
    calls: list[tuple[str, int, int]] = []
    running: list[str] = []

    def answer(site: str, call: Call) -> torch.Tensor:
        calls.append((site, *call.lengths))
        running.append(site)
        try:
            return call.run()
        finally:
            running.pop()

    bare = getattr(model, "_orig_mod", model)
    lookout = Lookout(bare, sites(bare), answering=lambda: bool(running))
    with lookout, answered(model, answer):
        output = forward()
    outside = [(name, function) for name, module, function in lookout.found if module not in lookout.known]
    declared = dict(Counter(name for name, function in outside if function == F.scaled_dot_product_attention.__name__))
    elsewhere = tuple(dict.fromkeys(name for name, _ in outside if name not in declared))
    if declared:
        calls.clear()
        with answered(model, answer, declared):
            output = forward()
    return output, Attention(tuple(calls), declared, elsewhere)


def silent(call: Call) -> torch.Tensor:
    """What attention gives when it says nothing: zeros, so that no token hears of another."""
    return call.query.new_zeros(*call.query.shape[:-1], call.value.shape[-1])


class _Answering(TorchFunctionMode):
    def __init__(self, answer: Callable[[Call], torch.Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.answer(Call(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _named(name: str, stock: Callable[..., Any], names: list[Iterator[str]]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        names.append(f"{name}#{number}" if number else name for number in itertools.count())
        try:
            return stock(*args, **kwargs)
        finally:
            names.pop()

    return forward
