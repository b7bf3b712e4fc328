"""The two passes of `mass` as Triton kernels for CUDA: bf16, fp16 and fp32 input, any mask, float32 sums.

float32 products use IEEE precision, not TF32. Used by `interventions.seam.mass` alone, since it
needs Triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_QUERIES, _KEYS = 64, 64  # block sizes


@triton.jit
def _scores(
    q, k, mask, rows, columns, head, n_queries, n_keys, stride_mq, stride_mk, scale,
    masked: tl.constexpr, boolean: tl.constexpr,
):  # fmt: skip
    """Scaled, masked scores of one block [rows, columns]; -inf outside of the sequence and where forbidden."""
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    inside = (rows[:, None] < n_queries) & (columns[None, :] < n_keys)
    if masked:
        at = mask + head + rows[:, None].to(tl.int64) * stride_mq + columns[None, :].to(tl.int64) * stride_mk
        if boolean:
            inside = inside & (tl.load(at, mask=inside, other=0) != 0)
        else:
            score += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, score, float("-inf"))


@triton.jit
def _block(x, offset, tokens, channels, n_tokens, n_channels, stride_t, stride_d):
    """[tokens, channels] of one head, zero outside."""
    inside = (tokens[:, None] < n_tokens) & (channels[None, :] < n_channels)
    at = x + offset + tokens[:, None].to(tl.int64) * stride_t + channels[None, :] * stride_d
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def _lse_kernel(
    query, key, mask, lse_out, entropy_out,
    sqb, sqh, sqt, sqd, skb, skh, skt, skd, smb, smh, smq, smk,
    heads, n_queries, n_keys, n_channels, scale,
    masked: tl.constexpr, boolean: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Pass 1: per query the log-sum-exp of its scores and the entropy of its attention, in one sweep over keys."""
    blocks = tl.cdiv(n_queries, QUERIES)
    both = tl.program_id(0) // blocks
    rows = tl.program_id(0) % blocks * QUERIES + tl.arange(0, QUERIES)
    b, h = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    q = _block(query, b * sqb + h * sqh, rows, channels, n_queries, n_channels, sqt, sqd)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)  # sum exp(s - top)
    weighted = tl.zeros([QUERIES], tl.float32)  # sum exp(s - top) * (s - top)
    for start in range(0, n_keys, KEYS):
        columns = start + tl.arange(0, KEYS)
        k = _block(key, b * skb + h * skh, columns, channels, n_keys, n_channels, skt, skd)
        s = _scores(
            q, k, mask, rows, columns, b * smb + h * smh, n_queries, n_keys, smq, smk, scale, masked, boolean
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        shift = tl.where(top == float("-inf"), 0.0, top - safe)
        weight = tl.exp(s - safe[:, None])
        gap = tl.where(s == float("-inf"), 0.0, s - safe[:, None])
        factor = tl.where(top == float("-inf"), 0.0, tl.exp(shift))
        weighted = factor * (weighted + shift * total) + tl.sum(weight * gap, 1)
        total = factor * total + tl.sum(weight, 1)
        top = higher
    some = total > 0
    base = tl.where(some, top, 0.0)
    log_total = tl.log(tl.where(some, total, 1.0))
    at = both.to(tl.int64) * n_queries + rows
    tl.store(lse_out + at, tl.where(some, base + log_total, float("inf")), mask=rows < n_queries)
    entropy = tl.where(some, log_total - weighted / tl.where(some, total, 1.0), 0.0)
    tl.store(entropy_out + at, entropy, mask=rows < n_queries)


@triton.jit
def _mass_kernel(
    query, key, mask, lse_in, mass_out,
    sqb, sqh, sqt, sqd, skb, skh, skt, skd, smb, smh, smq, smk,
    heads, n_queries, n_keys, n_channels, scale,
    masked: tl.constexpr, boolean: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Pass 2: per key the mean over queries of exp(score - lse); a query without any key has lse = inf and adds 0."""
    blocks = tl.cdiv(n_keys, KEYS)
    both = tl.program_id(0) // blocks
    columns = tl.program_id(0) % blocks * KEYS + tl.arange(0, KEYS)
    b, h = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    k = _block(key, b * skb + h * skh, columns, channels, n_keys, n_channels, skt, skd)
    received = tl.zeros([KEYS], tl.float32)
    for start in range(0, n_queries, QUERIES):
        rows = start + tl.arange(0, QUERIES)
        q = _block(query, b * sqb + h * sqh, rows, channels, n_queries, n_channels, sqt, sqd)
        s = _scores(
            q, k, mask, rows, columns, b * smb + h * smh, n_queries, n_keys, smq, smk, scale, masked, boolean
        )  # fmt: skip
        lse = tl.load(lse_in + both.to(tl.int64) * n_queries + rows, mask=rows < n_queries, other=float("inf"))
        received += tl.sum(tl.exp(s - lse[:, None]), 0)
    tl.store(mass_out + both.to(tl.int64) * n_keys + columns, received / n_queries, mask=columns < n_keys)


def statistics(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scale: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(mass float32 [batch, heads, keys], entropy float32 [batch, heads] or None); a mask must have 4 dimensions."""
    if query.dtype == torch.float64:
        query, key = query.float(), key.float()
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    lse = torch.empty(batch, heads, queries, device=query.device)
    entropies = torch.empty_like(lse)
    mass = torch.empty(batch, heads, keys, device=query.device)
    boolean = mask is not None and mask.dtype == torch.bool
    strides: tuple[int, ...] = (0, 0, 0, 0)
    if mask is not None:
        view = mask.view(torch.uint8) if boolean else mask
        strides = view.expand(batch, heads, queries, keys).stride()
    else:
        view = query
    shared = (
        *query.stride(), *key.stride(), *strides, heads, queries, keys, width, scale, mask is not None, boolean,
        max(16, triton.next_power_of_2(width)), _QUERIES, _KEYS,
    )  # fmt: skip
    _lse_kernel[(triton.cdiv(queries, _QUERIES) * batch * heads,)](query, key, view, lse, entropies, *shared)
    _mass_kernel[(triton.cdiv(keys, _KEYS) * batch * heads,)](query, key, view, lse, mass, *shared)
    return mass, entropies.mean(-1) if entropy else None
