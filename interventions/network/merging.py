"""Tokens merged around attention modules, by tomesd's bipartite matching."""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from interventions.errors import InputError, spec_error
from interventions.network.blocks import Block, entered, forwards

CELL = 2
Matching = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]
"""Merge and unmerge, of tokens [batch, tokens, channels]."""


def version() -> str:
    """That of tomesd. Raises InputError with what to type where it is not installed."""
    try:
        return importlib.metadata.version("tomesd")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("merging tokens needs tomesd: pip install 'denoise-trace[changes]'") from error


@dataclass
class _Forward:
    """What the blocks of one forward share: the picture's height and width, and the draws of destinations."""

    share: float
    generator: torch.Generator
    spec: object
    size: tuple[int, int] | None = None
    matchings: dict[str, Matching] = field(default_factory=dict)

    def see(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the size off the network's first input, [batch, channel, y, x]."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if not tensors or tensors[0].dim() != 4:
            shown = list(tensors[0].shape) if tensors else "none"
            why = (
                f"{type(network).__name__} is shown {shown}, no picture [batch, channel, y, x], so the grid of its "
                "tokens is not known"
            )
            raise spec_error(self.spec, why, "int8")
        self.size = tensors[0].shape[-2], tensors[0].shape[-1]

    def match(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide which tokens of those that enter a block are merged, as tomesd does."""
        from tomesd.merge import bipartite_soft_matching_random2d

        assert self.size is not None
        tokens = next(iter(entered(block.module, args, kwargs).values()))
        factor = math.ceil(math.sqrt(self.size[0] * self.size[1] // tokens.shape[1]))
        height, width = (math.ceil(side / factor) for side in self.size)
        if height * width != tokens.shape[1]:
            why = f"{block.name} has {tokens.shape[1]} tokens, which are no grid of a picture of {self.size}"
            raise spec_error(self.spec, why, "int8")
        count = int(tokens.shape[1] * self.share)
        self.matchings[block.name] = bipartite_soft_matching_random2d(
            tokens, width, height, CELL, CELL, count, no_rand=False, generator=self.generator
        )


@contextmanager
def merged(
    network: nn.Module, blocks: Sequence[Block], share: float, *, draw: tuple[int, int], spec: object
) -> Iterator[None]:
    """While inside, the self attention of these blocks sees merged tokens; for one forward.

    share: of the image tokens. draw: what the destinations are drawn by, whole numbers. Raises `SpecError`, naming
    `spec`, for a network whose tokens lie on no grid that its input tells.
    """
    version()
    step, call = draw
    forward = _Forward(share, torch.Generator().manual_seed(step * 1024 + call), spec)
    replaced = {
        site.module: _merging(site.module, forward, block.name)
        for block in blocks
        for site in block.sites
        if not site.cross
    }
    hooks = [network.register_forward_pre_hook(forward.see, with_kwargs=True)]
    hooks += [block.module.register_forward_pre_hook(_matching(forward, block), with_kwargs=True) for block in blocks]
    try:
        with forwards(replaced):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _matching(forward: _Forward, block: Block) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward.match(block, args, kwargs)

    return hook


def _merging(attention: nn.Module, forward: _Forward, block: str) -> Callable[..., Any]:
    """The forward of an attention module on merged image tokens, its first argument and first output."""
    stock = attention.forward

    @functools.wraps(stock)
    def call(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        merge, unmerge = forward.matchings[block]
        output = stock(merge(hidden_states), *args, **kwargs)
        if isinstance(output, tuple):
            return unmerge(output[0]), *output[1:]
        return unmerge(output)

    return call
