"""Attention received per key, and the entropy of attention, without ever holding a tokens x tokens x heads matrix.

Exact: the softmax of some queries at a time, in a buffer that stays in the cache, summed over queries. That is one
matrix product where attention itself makes two. This is for CPUs and any other device; CUDA has `mass_triton`.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
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
    """The statistics by softmax over blocks of rows, heads and queries, in float32 (float64 for such inputs) on any
    device.

    mask: four-dimensional. Besides its result it holds a few heads' keys in that type and `_BUFFER_BYTES`.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    dtype = query.dtype if query.dtype == torch.float64 else torch.float32
    mass = torch.zeros(batch, heads, keys, dtype=dtype, device=query.device)
    total = torch.zeros(batch, heads, dtype=dtype, device=query.device)
    of_rows, of_heads, of_queries = _blocks(batch, heads, queries, keys)
    probabilities = torch.empty(
        min(of_rows, batch) * min(of_heads, heads) * of_queries * keys, dtype=dtype, device=query.device
    )
    logs = torch.empty_like(probabilities) if entropy else None
    blind = None if mask is None else _blind(mask)
    for at in itertools.product(_slices(batch, of_rows), _slices(heads, of_heads)):
        turned = key[at].reshape(-1, keys, width).to(dtype).mT
        here = query[at].reshape(-1, queries, width).to(dtype)
        bias, nowhere = (None if x is None else _part(x, at) for x in (mask, blind))
        shape = query[at].shape[:2]
        for block in _slices(queries, of_queries):
            part = here[:, block]
            p = probabilities[: part.shape[0] * part.shape[1] * keys].view(*part.shape[:2], keys)
            torch.baddbmm(p, part, turned, beta=0, alpha=scale, out=p)
            if bias is not None:
                _mask(p.unflatten(0, shape), bias[:, :, block] if bias.shape[2] > 1 else bias)
            torch.softmax(p, -1, out=p)
            if nowhere is not None:
                p.unflatten(0, shape).masked_fill_(nowhere[:, :, block] if nowhere.shape[2] > 1 else nowhere, 0)
            mass[at] += p.sum(1).unflatten(0, shape)
            if logs is not None:
                total[at] += _entropy(p, logs).unflatten(0, shape)
    return mass.div_(queries).float(), total.div_(queries).float() if entropy else None


def _blocks(batch: int, heads: int, queries: int, keys: int) -> tuple[int, int, int]:
    """How many rows, heads and queries go into the buffer: some queries of one head where sequences are long, all
    queries of several heads and rows where they are short.
    """
    lines = max(1, _BUFFER_BYTES // (4 * keys))
    of_queries = min(queries, lines)
    of_heads = min(heads, lines // of_queries)
    return min(batch, lines // (of_queries * of_heads)), of_heads, of_queries


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _part(mask: torch.Tensor, at: tuple[slice, slice]) -> torch.Tensor:
    """Some rows and heads of a mask that may have one for all."""
    rows, heads = (part if size > 1 else slice(None) for part, size in zip(at, mask.shape, strict=False))
    return mask[rows, heads]


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
    torch.clamp_min(p, torch.finfo(p.dtype).tiny, out=logs).log_()
    return -torch.linalg.vecdot(p.flatten(1), logs.flatten(1))
