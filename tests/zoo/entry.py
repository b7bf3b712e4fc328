"""What a pipeline of the zoo is: how it is made, how it is called, and what its architecture says of its tokens.

`Known` is written down by hand from the architecture's own source, never read from the probe: it is what the probe is
held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STEPS = 4
PROMPTS = ("a red cat", "a big dog")
"""As long as each other in letters and in words, so that no tokenizer of the zoo pads one of them alone."""

Order = tuple[tuple[str, int], ...]
"""Segments of a sequence in their order: (kind, tokens) with kind "image", "text", "prefix" or "padding"."""


@dataclass(frozen=True)
class Known:
    """What the source says of one call of the denoiser for the conditional prompts.

    `state`: (frames, channels, height, width) of what the scheduler steps. `grid`: (frames, rows, columns) of image
    tokens in the recorded call, the longest self attention with image tokens. `order`: its segments. `cross`: keys of
    the cross attention, 0 where there is none. `calls`: the other call shapes, (queries, keys) -> (order of the
    queries, order of the keys), or (queries, keys, module) where a module's calls have a shape that others have over
    other tokens (Z-Image's two refiners). `attentions`: softmax attention calls in one forward. `several`: how many
    calls a module makes where it is not one. `unreachable`: attention modules without softmax. `pooled`: modules
    outside of the blocks that attend over a prompt to pool it. `asked`: calls of the denoiser in a step. `conditional`:
    (call, part, parts): which call of the step and which equal part of its batch holds the prompts. `refused`: why
    nothing can be done to it, "" where all works.
    """

    state: tuple[int, int, int, int]
    grid: tuple[int, int, int]
    order: Order
    cross: int = 0
    calls: Mapping[tuple, tuple[Order, Order]] = field(default_factory=dict)
    attentions: int = 0
    several: Mapping[str, int] = field(default_factory=dict)
    unreachable: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    asked: int = 1
    conditional: tuple[int, int, int] = (0, 0, 1)
    refused: str = ""

    @property
    def tokens(self) -> int:
        return sum(size for _, size in self.order)

    def read(self, n_query: int, n_key: int, module: str = "") -> tuple[Order, Order]:
        """Orders of the queries and of the keys of an attention call, made in the module of that name."""
        shape = (n_query, n_key)
        told = self.calls.get((*shape, module)) or self.calls.get(shape)
        if told is not None:
            return told
        if shape == (self.tokens, self.tokens):
            return self.order, self.order
        if shape == (self.tokens, self.cross):
            return self.order, (("text", self.cross),)
        raise KeyError(f"nothing is known of an attention call {shape}")

    def all_calls(self) -> dict[tuple, tuple[Order, Order]]:
        """Orders of the queries and of the keys for every shape of an attention call."""
        own = {} if self.unreachable else {(self.tokens, self.tokens): (self.order, self.order)}
        cross = {(self.tokens, self.cross): (self.order, (("text", self.cross),))} if self.cross else {}
        return {**own, **cross, **self.calls}

    def cells(self, order: Order) -> np.ndarray:
        """[4, token]: kind (as `TokenLayout.kinds` numbers it), frame, y, x of every token; -1 off the image."""
        numbers = {"image": 0, "text": 1, "prefix": 2, "padding": 3}
        parts = []
        for kind, size in order:
            part = np.full((4, size), -1)
            if kind == "image":
                part[1:] = np.unravel_index(np.arange(size), self.grid_of(size))
            part[0] = numbers[kind]
            parts.append(part)
        return np.concatenate(parts, axis=1)

    def grid_of(self, image_tokens: int) -> tuple[int, int, int]:
        """(frames, rows, columns) of so many image tokens: the grid, halved where a UNet halves it.

        As many as there are frames are one place in all of them (Latte's attention between frames).
        """
        if image_tokens == self.state[0]:
            return image_tokens, 1, 1
        frames, rows, columns = self.grid
        while frames * rows * columns > image_tokens:
            rows, columns = -(-rows // 2), -(-columns // 2)
        assert frames * rows * columns == image_tokens
        return frames, rows, columns

    @property
    def text(self) -> int:
        """Text tokens of the recorded call, or those of the cross attention."""
        return sum(size for kind, size in self.order if kind == "text") or self.cross


@dataclass(frozen=True)
class Entry:
    """One pipeline of the zoo. `make` gives the pipeline and the arguments of its call, fresh each time."""

    name: str
    family: str
    make: Callable[[], tuple[Any, dict[str, Any]]]
    known: Known


ZOO: dict[str, Entry] = {}


def entry(name: str, family: str, known: Known, **options: Any) -> Callable:
    """Puts the decorated maker in `ZOO` under `name`; `options` are handed to it (so that one maker serves several)."""

    def register(make: Callable) -> Callable:
        ZOO[name] = Entry(name, family, lambda: make(**options), known)
        return make

    return register
