"""Attention received per key, and the entropy of attention, without ever holding a tokens x tokens x heads matrix.

Exact: the softmax of some queries at a time, in a buffer that stays in the cache, summed over queries. That is one
matrix product where attention itself makes two. This is for CPUs and any other device; CUDA has `mass_triton`.
"""

from __future__ import annotations

import functools
import importlib.util
import math

import torch

_BUFFER_BYTES = 2**21  # of probabilities held at once: what two cores keep in their caches (docs/performance.md)


def attention_mass(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """Mean over queries of softmax attention: float32 [batch, heads, keys], 1 over all keys together.

    query, key: [batch, heads, tokens, head_dim], any float type. mask: broadcastable to [batch, heads, queries, keys],
    boolean (True = allowed) or float (added to the scores). scale: of the scores, default 1 / sqrt(head_dim).
    The mass m_j = mean_i A_ij of the sink paper ("Attention Sinks in Diffusion Transformers", ICML 2026). Queries
    without any allowed key count as zero. Raises ValueError for shapes that do not go together.
    """
    return attention_statistics(query, key, mask, scale, entropy=False)[0]


def attention_entropy(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """Mean over queries of the entropy of a query's attention, in nat: float32 [batch, heads]. Arguments as above."""
    entropy = attention_statistics(query, key, mask, scale, entropy=True)[1]
    assert entropy is not None
    return entropy


@torch.no_grad()
def attention_statistics(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    entropy: bool = True,
    lse: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(mass, entropy) of one attention call in one go; entropy is None unless asked for. Arguments as above.

    `lse` [batch, heads, queries]: log-sum-exp of this call's scores, in nat, from whoever has just run it (`fused`).
    It saves the CUDA kernels one of two sweeps; elsewhere it is not used.
    """
    _check(query, key, mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if query.is_cuda and _has_triton():
        from interventions.seam.mass_triton import statistics

        return statistics(query, key, mask, scale, entropy, lse)
    return blocked(query, key, mask, scale, entropy)


def _check(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> None:
    if query.dim() != 4 or key.dim() != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            "query and key must be [batch, heads, tokens, head_dim] with equal batch, heads and head_dim; "
            f"got {tuple(query.shape)} and {tuple(key.shape)}"
        )
    full = (*query.shape[:3], key.shape[2])
    if mask is not None and (
        mask.dim() > 4 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], full[::-1], strict=False))
    ):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not broadcast to {full}")


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def blocked(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The statistics by softmax over blocks of queries and heads, in float32 (float64 for such inputs) on any device.

    mask: four-dimensional. Besides its result it holds two float32 copies of a few heads' keys and `_BUFFER_BYTES`.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    dtype = query.dtype if query.dtype == torch.float64 else torch.float32
    mass = torch.zeros(batch, heads, keys, dtype=dtype, device=query.device)
    total = torch.zeros(batch, heads, dtype=dtype, device=query.device)
    group, block = _cut(heads, queries, keys)
    probabilities = torch.empty(group * block * keys, dtype=dtype, device=query.device)
    logs = torch.empty_like(probabilities) if entropy else None
    for row in range(batch):
        for first in range(0, heads, group):
            at = row, slice(first, first + group)
            turned = key[at].to(dtype).mT
            for start in range(0, queries, block):
                part = query[at][:, start : start + block].to(dtype) * scale
                p = probabilities[: part.shape[0] * part.shape[1] * keys].view(*part.shape[:2], keys)
                torch.bmm(part, turned, out=p)
                if mask is None:
                    torch.softmax(p, -1, out=p)
                else:
                    _softmax_under_mask(p, _block(mask, *at, slice(start, start + block)))
                mass[at] += p.sum(1)
                if logs is not None:
                    total[at] += _entropy(p, logs)
    return mass.div_(queries).float(), total.div_(queries).float() if entropy else None


def _cut(heads: int, queries: int, keys: int) -> tuple[int, int]:
    """How many heads and queries go into the buffer: few queries of one head where it is long, else several heads."""
    lines = max(1, _BUFFER_BYTES // (4 * keys))
    block = min(queries, lines)
    return min(heads, lines // block), block


def _block(mask: torch.Tensor, row: int, heads: slice, queries: slice) -> torch.Tensor:
    """The part [heads or 1, queries or 1, keys or 1] of a mask for some heads and queries of one row of the batch."""
    of_row = mask[row if mask.shape[0] > 1 else 0]
    of_heads = of_row[heads] if mask.shape[1] > 1 else of_row
    return of_heads[:, queries] if mask.shape[2] > 1 else of_heads


def _softmax_under_mask(scores: torch.Tensor, mask: torch.Tensor) -> None:
    """Scores [heads, queries, keys] -> probabilities, in place; all zero for a query that may see no key."""
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, -math.inf)
    else:
        scores += mask.to(scores.dtype)
    blind = torch.isneginf(scores.amax(-1, keepdim=True))
    torch.softmax(scores, -1, out=scores)
    if scores.device.type != "cpu" or bool(blind.any()):  # elsewhere the question would wait for the device
        scores.masked_fill_(blind, 0)


def _entropy(p: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Sum of -p log p over queries and keys, [heads]; written out because torch.special.entr takes twice the time."""
    logs = buffer[: p.numel()].view_as(p)
    torch.clamp_min(p, torch.finfo(p.dtype).tiny, out=logs).log_()
    return -torch.linalg.vecdot(p.flatten(1), logs.flatten(1))
