"""One call of `F.scaled_dot_product_attention` as a value that can be cut by rows and queries and given another mask.

Nothing here knows about interventions or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Call:
    """The arguments of one attention call; query, key, value are [batch, heads, tokens, head_dim]."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    share: float = 1.0  # how much its answer counts, where several calls answer the same queries together

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
        return F.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            attn_mask=self.attn_mask,
            dropout_p=self.dropout_p,
            is_causal=self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )

    def rows(self, rows: slice) -> Call:
        """The same call for some rows of the batch."""
        if rows == slice(0, self.batch):
            return self
        mask = self.attn_mask
        if mask is not None and mask.dim() == 4 and mask.shape[0] > 1:
            mask = mask[rows]
        return replace(self, query=self.query[rows], key=self.key[rows], value=self.value[rows], attn_mask=mask)

    def queries(self, part: slice | torch.Tensor) -> Call:
        """The same call for some of its query tokens."""
        mask = self.bias()
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., part, :]
        return replace(self, query=self.query[..., part, :], attn_mask=mask, is_causal=False)

    def bias(self) -> torch.Tensor | None:
        """The call's own mask as additive logits in the query's dtype, a causal flag included; None if it has none."""
        if self.is_causal:
            allowed = torch.ones(self.lengths, dtype=torch.bool, device=self.query.device).tril()
            return additive(allowed, self.query.dtype)
        return None if self.attn_mask is None else additive(self.attn_mask, self.query.dtype)

    def biased(self, extra: torch.Tensor) -> Call:
        """The same call with further additive logits, broadcastable to [batch, heads, queries, keys]."""
        own = self.bias()
        return replace(self, attn_mask=extra if own is None else own + extra, is_causal=False)

    def whole(self, answer: Call) -> Pieces:
        """One call that answers all query tokens of this one."""
        return [(slice(0, self.lengths[0]), answer)]

    def grouped(self) -> Call:
        """The same call with as many key and value heads as query heads (grouped queries written out)."""
        repeats = self.query.shape[1] // self.key.shape[1]
        if repeats == 1:
            return self
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (self.key, self.value))
        return replace(self, key=key, value=value, enable_gqa=False)


Pieces = list[tuple[slice, Call]]  # query tokens and a call that answers them; shares add up to 1 for every query


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
