"""Forwards of a transformer block that remember what it gave, and that give what is remembered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from interventions.network.blocks import Block, entered, joined, split


def computed(block: Block, memory: dict[str, Any], kept: str) -> Callable[..., Any]:
    """The block's own forward, which remembers under the block's name; kept: its "output", or the "residual"."""
    stock = block.module.forward

    @functools.wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = stock(*args, **kwargs)
        if kept == "output":
            memory[block.name] = output
            return output
        before, after = entered(block.module, args, kwargs), split(block.module, output)
        memory[block.name] = isinstance(output, tuple), {each: after[each] - before[each] for each in after}
        return output

    return forward


def reused(block: Block, memory: dict[str, Any], kept: str) -> Callable[..., Any]:
    """A forward that gives what is remembered, added to what enters where that is a residual; nothing runs.

    Where nothing is remembered it computes: a pipeline has gone over to its second network (Wan 2.2).
    """
    compute = computed(block, memory, kept)

    @functools.wraps(block.module.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if block.name not in memory:
            return compute(*args, **kwargs)
        if kept == "output":
            return memory[block.name]
        several, added = memory[block.name]
        before = entered(block.module, args, kwargs)
        return joined(block.module, {each: before[each] + value for each, value in added.items()}, several=several)

    return forward
