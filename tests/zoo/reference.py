"""Masks and sinks written out densely in float64 around a plain call of a pipeline: what the seam is held against.

Every softmax attention call of the denoiser is computed here, from query, key and value alone, and edited by what
`Known` says of its tokens. Neither the seam, nor a `TokenLayout`, nor the probe has a part in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tests.oracles import dense
from tests.zoo.entry import Known, Order
from tests.zoo.plain import DENOISERS

Edit = Callable[[torch.Tensor, Order, Order, Known], torch.Tensor]
"""(weights [batch, head, query, key] float64, order of the queries, of the keys, what is known) -> weights."""


def ball(radius: int) -> Edit:
    """Image tokens read only the image tokens within a Manhattan distance of (frame, y, x), and all the others."""

    def edit(weights: torch.Tensor, queries: Order, keys: Order, known: Known) -> torch.Tensor:
        mask = np.ones(weights.shape[-2:], dtype=bool)
        rows, columns = positions("image", queries), positions("image", keys)
        if len(rows) == 0 or len(rows) != len(columns):
            return weights
        cells = np.stack(np.unravel_index(np.arange(len(rows)), known.grid_of(len(rows))), axis=1)
        near = np.abs(cells[:, None] - cells[None]).sum(-1) <= radius
        mask[np.ix_(rows, columns)] = near
        return dense.renormalised(weights, torch.from_numpy(mask))

    return edit


def without_sinks(count: int, kind: str) -> Edit:
    """For every head, no query reads the `count` keys of a kind that receive most mass.

    A query that the model's own mask leaves no other key is not touched, nor is a call without such keys.
    """

    def edit(weights: torch.Tensor, queries: Order, keys: Order, known: Known) -> torch.Tensor:
        allowed = torch.from_numpy(positions(kind, keys))
        if len(allowed) == 0:
            return weights
        mass = weights.mean(-2)[..., allowed]
        chosen = allowed[mass.topk(count).indices]
        kept = torch.ones_like(weights[..., :1, :]).scatter_(-1, chosen.unsqueeze(-2), 0.0)
        return torch.where((weights * kept).sum(-1, keepdim=True) > 0, dense.renormalised(weights, kept), weights)

    return edit


def positions(kind: str, order: Order) -> np.ndarray:
    """Where the tokens of a kind stand in a sequence."""
    kinds = np.repeat([one for one, _ in order], [size for _, size in order])
    return np.flatnonzero(kinds == kind)


class _Dense(TorchFunctionMode):
    def __init__(self, known: Known, edit: Edit, within: Callable[[], str]):
        super().__init__()
        self.known, self.edit, self.within = known, edit, within

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return (
            self._attention(*args, **kwargs)
            if function is F.scaled_dot_product_attention
            else function(*args, **kwargs)
        )

    def _attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        assert not is_causal
        assert not dropout_p
        if query.shape[1] != key.shape[1]:
            key, value = (side.repeat_interleave(query.shape[1] // side.shape[1], dim=1) for side in (key, value))
        queries, keys = self.known.read(query.shape[-2], key.shape[-2], self.within())
        weights = self.edit(dense.weights(query, key, attn_mask, scale), queries, keys, self.known)
        return dense.attend(weights, value).to(query.dtype)


@contextmanager
def edited(pipeline: Any, known: Known, edit: Edit, when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Inside, the attention of the pipeline's denoisers is computed densely and, where `when` says so, edited."""
    inside: list[str] = []
    named = {call[2] for call in known.calls if len(call) == 3}
    with ExitStack() as stack:
        for name in DENOISERS:
            if (model := getattr(pipeline, name, None)) is None:
                continue
            for path, module in model.named_modules():
                if path in named:
                    stack.callback(module.register_forward_pre_hook(_entering(inside, path)).remove)
                    stack.callback(module.register_forward_hook(lambda *_: inside.pop() and None).remove)
            stock = model.forward
            mode = partial(_Dense, known, lambda *of: edit(*of) if when() else of[0], lambda: (inside or [""])[-1])
            model.forward = _dense_forward(stock, mode)
            stack.callback(delattr, model, "forward")
        yield


def _entering(inside: list[str], module: str) -> Callable[..., None]:
    return lambda *_: inside.append(module)


def _dense_forward(stock: Callable, mode: Callable[[], _Dense]) -> Callable:
    @functools.wraps(stock)  # pipelines read its signature
    def forward(*args, **kwargs):
        with mode():
            return stock(*args, **kwargs)

    return forward
