"""One call of `F.scaled_dot_product_attention` as a value that can be cut by rows, heads and queries and given another
mask, and the pieces that answer it.

Nothing here knows about interventions or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Top:
    """Of each query's keys that are meant, bool [keys] (None: all), the `count` of largest logit are kept, and those
    whose logit equals the last one's; the probability of the others is scaled by 1 - strength."""

    count: int
    strength: float = 1.0
    meant: torch.Tensor | None = None


@dataclass(frozen=True)
class Call:
    """The arguments of one attention call; query, key, value are [batch, heads, tokens, head_dim].

    top: which keys of each query are kept, by their logits, which is found when the call is run.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    top: Top | None = None

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.query.shape[0]

    @property
    def lengths(self) -> tuple[int, int]:
        """Number of query tokens and of key tokens."""
        return self.query.shape[-2], self.key.shape[-2]

    def run(self) -> torch.Tensor:
        """[batch, heads, queries, head_dim], by the fused kernel, with exactly these arguments."""
        call = self.settled()
        return F.scaled_dot_product_attention(
            call.query,
            call.key,
            call.value,
            attn_mask=call.attn_mask,
            dropout_p=call.dropout_p,
            is_causal=call.is_causal,
            scale=call.scale,
            enable_gqa=call.enable_gqa,
        )

    def settled(self) -> Call:
        """The same call with its top keys written out as a mask."""
        return self if self.top is None else replace(self, attn_mask=self.bias(), is_causal=False, top=None)

    def rows(self, rows: slice) -> Call:
        """The same call for some rows of the batch."""
        if rows == slice(0, self.batch):
            return self
        mask = self.attn_mask
        if mask is not None and mask.dim() == 4 and mask.shape[0] > 1:
            mask = mask[rows]
        return replace(self, query=self.query[rows], key=self.key[rows], value=self.value[rows], attn_mask=mask)

    def heads(self, heads: Sequence[int]) -> Call:
        """The same call for some of its heads."""
        mask = self.attn_mask
        if mask is not None and mask.dim() > 2 and mask.shape[-3] > 1:
            mask = mask[..., heads, :, :]
        query, key, value = (x[:, heads] for x in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value, attn_mask=mask)

    def queries(self, part: slice | torch.Tensor) -> Call:
        """The same call for some of its query tokens."""
        mask = self._own_bias()
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., part, :]
        return replace(self, query=self.query[..., part, :], attn_mask=mask, is_causal=False)

    def bias(self) -> torch.Tensor | None:
        """The call's mask as additive logits in the query's dtype, a causal flag and what its top keys leave out
        included; None if it has none."""
        own = self._own_bias()
        if self.top is None:
            return own
        lowered = self._lowered(self.top, own)
        return lowered if own is None else own + lowered

    def _lowered(self, top: Top, own: torch.Tensor | None) -> torch.Tensor:
        """Additive logits [batch, heads, queries, keys] of the keys that are not kept. Logits are float32 here."""
        dtype = self.query.dtype if self.query.dtype == torch.float64 else torch.float32
        scale = 1 / math.sqrt(self.query.shape[-1]) if self.scale is None else self.scale
        logits = self.query.to(dtype) @ self.key.to(dtype).mT * scale
        logits = logits if own is None else logits + own.to(dtype)
        if top.meant is not None:
            logits = logits.masked_fill(~top.meant, -math.inf)
        kept = logits >= logits.topk(top.count, dim=-1).values[..., -1:]
        return additive(kept if top.meant is None else kept | ~top.meant, self.query.dtype, top.strength)

    def _own_bias(self) -> torch.Tensor | None:
        """The model's own mask as additive logits in the query's dtype."""
        if self.is_causal:
            allowed = torch.ones(self.lengths, dtype=torch.bool, device=self.query.device).tril()
            return additive(allowed, self.query.dtype)
        return None if self.attn_mask is None else additive(self.attn_mask, self.query.dtype)

    def biased(self, extra: torch.Tensor) -> Call:
        """The same call with further additive logits, broadcastable to [batch, heads, queries, keys]."""
        own = self._own_bias()
        return replace(self, attn_mask=extra if own is None else own + extra, is_causal=False)

    def whole(self, answer: Call) -> Pieces:
        """One call that answers all query tokens of this one."""
        return [Piece(slice(0, self.lengths[0]), answer)]

    def stock(self) -> Pieces:
        """This very call, by torch's own kernel."""
        return [Piece(slice(0, self.lengths[0]), self, output=self.run())]

    def grouped(self) -> Call:
        """The same call with as many key and value heads as query heads (grouped queries written out)."""
        repeats = self.query.shape[1] // self.key.shape[1]
        if repeats == 1:
            return self
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (self.key, self.value))
        return replace(self, key=key, value=value, enable_gqa=False)


@dataclass(frozen=True)
class Piece:
    """What answers some query tokens of a call.

    call: whose probabilities are paid, of these queries and heads alone; None where nothing is known of them. share:
    how much the answer counts, where several answer the same queries and heads together. heads: None for all. output:
    the answer [batch, heads, queries, head_dim] where it is known already, else it is the call's.
    """

    queries: slice
    call: Call | None
    share: float = 1.0
    heads: tuple[int, ...] | None = None
    output: torch.Tensor | None = None

    def rows(self, rows: slice) -> Piece:
        """The same for some rows of the batch."""
        call = None if self.call is None else self.call.rows(rows)
        return replace(self, call=call, output=None if self.output is None else self.output[rows])

    def within(self, run: slice) -> Piece | None:
        """The same for those of its queries that lie in a run; None if none does."""
        both = slice(max(run.start, self.queries.start), min(run.stop, self.queries.stop))
        if both.start >= both.stop:
            return None
        if both == self.queries:
            return self
        own = slice(both.start - self.queries.start, both.stop - self.queries.start)
        call = None if self.call is None else self.call.queries(own)
        return replace(self, queries=both, call=call, output=None if self.output is None else self.output[:, :, own])

    def of_heads(self, heads: Sequence[int]) -> Piece:
        """The same, of all heads, for some of them."""
        call = None if self.call is None else self.call.heads(heads)
        output = None if self.output is None else self.output[:, heads]
        return replace(self, call=call, heads=tuple(heads), output=output)


Pieces = list[Piece]  # shares add up to 1 for every query of every head


def cut(pieces: Pieces, runs: Sequence[slice]) -> Pieces:
    """Of some pieces what answers the queries in some runs."""
    return [inside for piece in pieces for run in runs if (inside := piece.within(run))]


def around(runs: Sequence[slice], length: int) -> list[slice]:
    """The tokens of a sequence that lie in none of some ascending runs, as runs."""
    edges = [0, *(edge for run in runs for edge in (run.start, run.stop)), length]
    rest = (slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))
    return [part for part in rest if part.stop > part.start]


def additive(mask: torch.Tensor, dtype: torch.dtype, strength: float = 1.0) -> torch.Tensor:
    """Logits to add for a boolean mask (True = allowed): 0 where allowed, log(1 - strength) elsewhere.

    A float mask is additive already and only changes its dtype.
    """
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    penalty = math.log1p(-strength) if strength < 1 else -math.inf
    keys = mask.shape[-1]
    stored = -(-keys // 16) * 16 if mask.is_cuda else keys  # so far apart, rows can be read 16 bytes at a time
    bias = torch.zeros((*mask.shape[:-1], stored), dtype=dtype, device=mask.device)[..., :keys]
    return bias.masked_fill_(~mask, penalty)


def has_empty_row(bias: torch.Tensor) -> bool:
    """Whether some query is left without any key."""
    return bool(torch.isneginf(bias).all(dim=-1).any())
