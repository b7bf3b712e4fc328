"""Watches the attention calls of one forward of a denoiser, and may answer them in its place.

It masks and measures nothing: that is the seam's (`interventions.seam`), which it shares the list of sites with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from interventions.seam.calls import Call
from interventions.seam.sites import fused, fused_forward, sites
from tracer.denoisers.pipeline.hooks import replaced

Answer = Callable[[str, Call], torch.Tensor]
"""Told the site, named as the seam names it (`attn`, `attn#1` for a module's second call), and the call; gives what the
call gives."""


@contextmanager
def answered(model: torch.nn.Module, answer: Answer) -> Iterator[None]:
    """Inside it `answer` stands in for every softmax attention call of the model's sites; calls outside them run."""
    names: list[Iterator[str]] = []
    with ExitStack() as stack:
        for site in sites(model):
            stack.enter_context(fused(site.module))
            stack.enter_context(replaced(site.module, "forward", _named(site.name, fused_forward(site.module), names)))
        stack.enter_context(_Answering(lambda call: answer(next(names[-1]), call) if names else call.run()))
        yield


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
