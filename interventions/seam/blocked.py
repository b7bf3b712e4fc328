"""Attention in blocks on any device: output, mass and entropy of one pass over the same probabilities.

The softmax of some queries at a time, in a buffer that stays in the cache. With the values it is attention, without
them only its statistics: one matrix product where attention makes two. Nothing here knows lanes or models; how fast it
is beside torch's fused kernels is in docs/performance.md.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

_BUFFER_BYTES = 2**22  # of probabilities held at once; larger ones leave the caches (docs/performance.md)
_WORTH_COPYING = 4  # rows that fit into the buffer together
_CONVERTED_AT_ONCE = 2**22  # elements of a mask of another type; a larger one is converted block by block, head by head


@dataclass(frozen=True)
class Answer:
    """What an attention call gave: its output, and what is known of its probabilities; None for what is not.

    output: [batch, heads, queries, head_dim]. lse: log-sum-exp of the scores, in nat, [batch, heads, queries]. mass:
    mean over queries of the probabilities, [batch, heads, keys]. entropy: mean over queries, in nat, [batch, heads].
    to: mean over heads of the probabilities of some keys, [batch, queries, these keys].
    """

    output: torch.Tensor | None = None
    lse: torch.Tensor | None = None
    mass: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    to: torch.Tensor | None = None

    def rows(self, rows: slice) -> Answer:
        """The same of some rows of the batch."""
        parts = (self.output, self.lse, self.mass, self.entropy, self.to)
        return Answer(*(None if part is None else part[rows] for part in parts))


@torch.no_grad()
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    *,
    mass: bool = True,
    entropy: bool = False,
    to: torch.Tensor | None = None,
) -> Answer:
    """Softmax attention by blocks of rows, heads and queries, in float32 (float64 for such inputs).

    query, key, value: [batch, heads, tokens, head_dim]; value None asks for no output. mask: four-dimensional,
    broadcastable to [batch, heads, queries, keys], boolean (True = allowed) or float (added to the scores). to: numbers
    of the keys whose probabilities are wanted query by query. The output
    is of the query's type, in the memory order of torch's fused kernels. A query without any allowed key has output 0
    and counts as 0. Besides its results it holds a few heads' keys and values in that type and a buffer of 4 MiB.
    """
    batch, heads, queries, width = query.shape
    keys, device = key.shape[2], query.device
    dtype = query.dtype if query.dtype == torch.float64 else torch.float32
    received = torch.zeros(batch, heads, keys, dtype=dtype, device=device) if mass else None
    spread = torch.zeros(batch, heads, dtype=dtype, device=device) if entropy else None
    paid = None if to is None else torch.zeros(batch, queries, len(to), dtype=dtype, device=device)
    output = None if value is None else query.new_empty(batch, queries, heads, value.shape[3]).transpose(1, 2)
    blocks = _blocks(batch, heads, queries, keys, _BUFFER_BYTES // (2 if entropy else 1))
    buffer = torch.empty(math.prod(blocks) * keys, dtype=dtype, device=device)
    logs = torch.empty_like(buffer) if entropy else None
    blind = None if mask is None else _blind(mask)
    if mask is not None and mask.is_floating_point() and mask.numel() <= _CONVERTED_AT_ONCE:
        mask = mask.to(dtype)
    parts = _slices(queries, blocks[2])
    for at in itertools.product(_slices(batch, blocks[0]), _slices(heads, blocks[1])):
        shape = query[at].shape[:2]
        q, k = query[at].reshape(-1, queries, width).to(dtype), key[at].reshape(-1, keys, width).to(dtype).mT
        v = None if value is None else value[at].reshape(-1, keys, value.shape[3]).to(dtype)
        allowed, nowhere = _part(mask, at), _part(blind, at)
        for block in parts:
            part = q[:, block] if len(parts) > 1 else q
            p = buffer[: part.shape[0] * part.shape[1] * keys].view(*part.shape[:2], keys)
            torch.baddbmm(p, part, k, beta=0, alpha=scale, out=p)
            if allowed is not None:
                _mask(p.unflatten(0, shape), _of_queries(allowed, block))
            torch.softmax(p, -1, out=p)
            if nowhere is not None:
                p.unflatten(0, shape).masked_fill_(_of_queries(nowhere, block), 0)
            if received is not None:
                received[at] += p.sum(1).unflatten(0, shape)
            if spread is not None and logs is not None:
                spread[at] += _entropy(p, logs).unflatten(0, shape)
            if paid is not None:
                paid[at[0], block] += p[..., to].unflatten(0, shape).sum(1)
            if output is not None and v is not None:
                output[(*at, block)] = torch.bmm(p, v).unflatten(0, shape)
    return Answer(
        output,
        mass=None if received is None else received.div_(queries).float(),
        entropy=None if spread is None else spread.div_(queries).float(),
        to=None if paid is None else paid.div_(heads),
    )


def _blocks(batch: int, heads: int, queries: int, keys: int, room: int) -> tuple[int, int, int]:
    """How many rows, heads and queries go into so many bytes: some queries of one head where sequences are long, all
    queries of several heads where they are short, and of several rows, whose queries, keys and values must be copied
    together, where they are very short.
    """
    lines = max(1, room // (4 * keys))
    of_queries = min(queries, lines)
    of_heads = min(heads, lines // of_queries)
    rows = min(batch, lines // (of_queries * of_heads))
    return (rows if rows >= _WORTH_COPYING else 1), of_heads, of_queries


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _part(mask: torch.Tensor | None, at: tuple[slice, slice]) -> torch.Tensor | None:
    """Some rows and heads of a mask that may have one for all."""
    if mask is None:
        return None
    rows, heads = (part if size > 1 else slice(None) for part, size in zip(at, mask.shape, strict=False))
    return mask[rows, heads]


def _of_queries(mask: torch.Tensor, block: slice) -> torch.Tensor:
    return mask[:, :, block] if mask.shape[2] > 1 else mask


def _blind(mask: torch.Tensor) -> torch.Tensor | None:
    """Bool [.., .., queries, 1]: which queries may see no key; None where every one may see some."""
    blind = ~mask.any(-1, keepdim=True) if mask.dtype == torch.bool else torch.isneginf(mask.amax(-1, keepdim=True))
    return blind if bool(blind.any()) else None


def _mask(scores: torch.Tensor, mask: torch.Tensor) -> None:
    """Forbid or add, in place."""
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, -math.inf)
    else:
        scores += mask.to(scores.dtype)


def _entropy(p: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Sum of -p log p over queries and keys, [heads]; written out because torch.special.entr takes twice the time."""
    logs = buffer[: p.numel()].view_as(p)
    return -torch.clamp_min(p, torch.finfo(p.dtype).tiny, out=logs).log_().mul_(p).flatten(1).sum(1)
