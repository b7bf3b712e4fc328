"""Attention received per key, and the entropy of attention, without ever holding a tokens x tokens x heads matrix.

Exact: two passes of a fused kernel. The first gives the log-sum-exp of every query, the second sums exp(score - lse)
over queries for every key. Here are the CPU version and a plain one for any device; the CUDA kernel is `mass_triton`.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator

import torch

_CHUNK_BYTES = 8 * 2**20  # what the passes may hold besides their input, as long as one head fits into it


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
    if query.device.type != "cpu" or (entropy and mask is not None and not _is_hard(mask)):
        return chunked(query, key, mask, scale, entropy)
    return _fused_cpu(query, key, mask, scale, entropy)


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


def _is_hard(mask: torch.Tensor) -> bool:
    """Whether the entropy under this mask needs nothing but the scores: it only forbids, or is one bias per key."""
    if mask.dtype == torch.bool or mask.shape[2] == 1:
        return True
    return bool(((mask == 0) | torch.isneginf(mask)).all())


def chunked(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same statistics by plain softmax over blocks of queries, in float32 on any device."""
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    mass = torch.zeros(batch, heads, keys, device=query.device)
    total = torch.zeros(batch, heads, device=query.device)
    bias = None if mask is None else _additive(mask)
    block = max(1, _CHUNK_BYTES // (4 * batch * heads * keys))
    for start in range(0, queries, block):
        part = slice(start, start + block)
        scores = query[:, :, part].float() @ key.float().mT * scale
        if bias is not None:
            scores = scores + (bias[:, :, part] if bias.shape[2] > 1 else bias)
        lse = scores.logsumexp(-1, keepdim=True)
        weights = torch.exp(scores - lse.clamp_min(torch.finfo(torch.float32).min))
        mass += weights.sum(2)
        if entropy:
            mean_score = (weights * scores.masked_fill(weights == 0, 0)).sum(-1)
            total += (lse[..., 0].masked_fill(torch.isneginf(lse[..., 0]), 0) - mean_score).sum(-1)
    return mass / queries, total / queries if entropy else None


def _additive(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -math.inf)


def _fused_cpu(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Both passes by the fused CPU kernel, over pieces of the batch and heads.

    Pass 1 with value = key gives lse and E_i[k], hence sum_j p_ij s_ij = scale * q_i . E_i[k]. Pass 2 swaps query and
    key with -lse as bias: its log-sum-exp is log sum_i exp(s_ij - lse_i), the log of queries x mass.
    """
    batch, heads, queries, _ = query.shape
    dtype = query.dtype if query.dtype == torch.float64 else torch.float32
    bias = None if mask is None else _plain(_additive(mask).expand(-1, -1, -1, key.shape[2]), dtype)
    lse = torch.empty(batch, heads, queries, dtype=dtype)
    total = torch.empty(batch, heads)
    for at in _pieces(query, key):
        q, k = (_plain(x[at], dtype) for x in (query, key))
        here = None if bias is None else bias.expand(batch, heads, -1, -1)[at]
        expected_key, lse[at] = _flash(q, k, k, here, scale)
        if entropy:
            mean_score = scale * expected_key.mul_(q).sum(-1)  # per query, before any of it is averaged
            total[at] = (lse[at] - mean_score).mean(-1).float()
    log_mass = torch.empty(batch, heads, key.shape[2], dtype=dtype)
    if bias is not None and bias.shape[2] > 1:
        _sum_under_mask(query, key, bias, lse, scale, log_mass)
    else:
        for at in _pieces(query, key):
            q, k = (_plain(x[at], dtype) for x in (query, key))
            log_mass[at] = _flash(k, q, q, -lse[at].unsqueeze(2), scale)[1]
        log_mass = log_mass if bias is None else log_mass + bias.squeeze(2)
    mass = (log_mass - math.log(queries)).exp().float()
    if entropy and bias is not None and bias.shape[2] == 1:  # mean_i sum_j p_ij b_j = sum_j mass_j b_j
        total -= (mass * bias.squeeze(2).masked_fill(mass == 0, 0)).sum(-1).float()
    return mass, total if entropy else None


def _sum_under_mask(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, lse: torch.Tensor, scale: float, log_mass: torch.Tensor
) -> None:
    """Pass 2 under a bias [.., query, key], a block of keys at a time so that little of the bias is ever turned over.

    -lse rides along as one more channel, so that the bias need not hold it.
    """
    batch, heads, queries, _ = query.shape
    block = max(32, _CHUNK_BYTES // (bias.element_size() * queries * bias.shape[0] * bias.shape[1]))
    for start in range(0, key.shape[2], block):
        columns = slice(start, start + block)
        part = bias[..., columns]
        turned = part.transpose(2, 3).contiguous().expand(batch, heads, -1, -1)
        hidden = torch.isneginf(part).all(2).expand(batch, heads, -1)
        for at in _pieces(query, key):
            q, k = _plain(query[at], lse.dtype), _plain(key[at][:, :, columns], lse.dtype)
            q = torch.cat([q, -lse[at].unsqueeze(-1)], dim=-1)
            k = torch.cat([k, k.new_full((*k.shape[:-1], 1), 1 / scale)], dim=-1)
            received = _flash(k, q, q, turned[at], scale)[1]
            # for a key that no query may see the kernel answers 0, not -inf
            log_mass[..., columns][at] = received.masked_fill(hidden[at], -math.inf)


def _pieces(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of (batch, heads) small enough that what a pass holds stays small."""
    batch, heads, queries, width = query.shape
    head = 4 * (width + 1) * 3 * max(queries, key.shape[2])
    rows = max(1, _CHUNK_BYTES // (head * heads))
    group = heads if head * heads <= _CHUNK_BYTES else max(1, _CHUNK_BYTES // head)
    for row in range(0, batch, rows):
        for first in range(0, heads, group):
            yield slice(row, row + rows), slice(first, first + group)


def _plain(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In the kernel's type, with what the last axis counts side by side in memory."""
    x = x.to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, log-sum-exp [batch, heads, queries]) of torch's fused CPU attention.

    A bias must have its keys side by side in memory; otherwise the kernel copies it out to batch x heads x tokens^2.
    """
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
