"""Classifier-free guidance as rows of one forward: which half is which, and how the two become one prediction.

A forward under guidance holds every lane twice, once with the condition (positive) and once with what guidance moves
away from (negative). Guidance 1 needs the positive half alone. Source: Ho & Salimans 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Halves:
    """How one forward is laid out: `guidance`, and whether the positive half comes first (families differ)."""

    guidance: float
    positive_first: bool = False

    def ordered(self, negative: Value, positive: Value) -> list[Value]:
        """What belongs to each half, in the order of the rows; the positive one alone where guidance is 1."""
        if self.guidance == 1:
            return [positive]
        return [positive, negative] if self.positive_first else [negative, positive]

    @property
    def kept(self) -> int:
        """Index of the positive half among the halves that are evaluated: first or last."""
        return 0 if self.positive_first else -1

    def positive(self, halves: Tensor) -> Tensor:
        """The positive half of [half, ...]."""
        return halves[self.kept]

    def rows(self, x: Tensor, negative: Sequence[Tensor], positive: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Rows of one forward for x [lanes, samples, ...], each half lane-major, and the conditions row by row.

        `negative`, `positive`: the conditions as tensors [samples, ...], alike in number.
        """
        halves = self.ordered(negative, positive)
        rows = torch.cat([x.flatten(0, 1)] * len(halves))
        return rows, [torch.cat([part for part in parts for _ in range(len(x))]) for parts in zip(*halves, strict=True)]

    def guided(self, value: Tensor, shape: Sequence[int], channels: int | None = None) -> Tensor:
        """Rows of an output -> negative + guidance (positive - negative), of `shape` [lanes, samples, channel, y, x].

        `channels`: how many of the channels are guided, the others are those of the positive half; None: all.
        """
        if self.guidance == 1:
            return value.view(shape)
        halves = value.view(2, *shape)
        positive, negative = self.positive(halves), halves[-1 if self.positive_first else 0]
        mixed = negative + self.guidance * (positive - negative)
        if channels is None or channels == shape[-3]:
            return mixed
        return torch.cat([mixed[..., :channels, :, :], positive[..., channels:, :, :]], dim=-3)
