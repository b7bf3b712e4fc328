"""Forwards of several passes as one batch: their arguments joined row by row, the answer cut again.

Rows of one pass are [half, sample], halves being those of guidance; rows of a batch are [half, lane, sample], as the
seam counts them. What has no row for each sample must be the same in all passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Forward:
    """One forward that a pass waits for. named: what the pipeline says of it to caches of diffusers, if it does."""

    module: torch.nn.Module
    stock: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    named: tuple[str, dict[str, Any]] | None = None

    @property
    def rows(self) -> int:
        """Rows of its batch: of its first tensor, which is the state."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 1), 0)

    def run(self) -> Any:
        """The network's answer."""
        return self.stock(*self.args, **self.kwargs)


def joined(forwards: Sequence[Forward], samples: int) -> Forward | None:
    """One forward that answers all of these; None where their arguments cannot be joined."""
    first = forwards[0]
    rows = first.rows
    if rows == 0 or rows % samples:
        return None
    flat = [pytree.tree_flatten((each.args, each.kwargs)) for each in forwards]
    if any(nest != flat[0][1] for _, nest in flat):
        return None
    leaves = [_joined(each, rows, samples) for each in zip(*(leaves for leaves, _ in flat), strict=True)]
    if any(leaf is _APART for leaf in leaves):
        return None
    args, kwargs = pytree.tree_unflatten(leaves, flat[0][1])
    return Forward(first.module, first.stock, args, kwargs)


def cut(answer: Any, lanes: int, samples: int) -> list[Any]:
    """The answer for each lane of a joined forward."""
    leaves, nest = pytree.tree_flatten(answer)
    each = [_cut(leaf, lanes, samples) for leaf in leaves]
    return [pytree.tree_unflatten([leaf[lane] for leaf in each], nest) for lane in range(lanes)]


_APART = object()


def _joined(leaves: Sequence[Any], rows: int, samples: int) -> Any:
    first = leaves[0]
    if not isinstance(first, Tensor):
        return first if all(leaf is first or leaf == first for leaf in leaves) else _APART
    if any(leaf.shape != first.shape for leaf in leaves):
        return _APART
    if first.dim() and len(first) == rows:
        return torch.stack([leaf.unflatten(0, (-1, samples)) for leaf in leaves], dim=1).flatten(0, 2)
    return first if all(leaf is first or torch.equal(leaf, first) for leaf in leaves) else _APART


def _cut(leaf: Any, lanes: int, samples: int) -> Sequence[Any]:
    if not isinstance(leaf, Tensor) or not leaf.dim():
        return [leaf] * lanes
    return [part.flatten(0, 1) for part in leaf.unflatten(0, (-1, lanes, samples)).unbind(1)]
