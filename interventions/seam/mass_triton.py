"""Mass and entropy as Triton kernels for CUDA: bf16, fp16 and fp32 input, any mask, float32 sums.

One sweep over queries for every key, once the log-sum-exp of every query is known. Whoever has just run the fused
attention hands that in; otherwise a first kernel makes it. float32 products use IEEE precision, not TF32. Used by
`interventions.seam.mass`; nothing else should import it, since it needs Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

LOG2E = 1.4426950408889634
"""The hardware's exponential is that of base 2."""


@dataclass(frozen=True)
class Tile:
    """How a kernel is cut: queries x keys of one block, warps that share it, loads in flight."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 3


SMALL = Tile(64, 64, 4, 3)
LARGE = Tile(64, 128, 4, 2)
WIDE = Tile(64, 64, 4, 2)
"""For more than 128 channels a head, where more would not fit into shared memory."""
EXACT = Tile(32, 32, 4, 2)
"""For float32 input, whose IEEE products have no matrix unit."""


@triton.jit
def _head(x, b, h, stride_b, stride_h, ALIGNED: tl.constexpr):
    """Where one head begins. ALIGNED: all strides are multiples of 8, so that loads may be 16 bytes wide."""
    offset = b * stride_b + h * stride_h
    if ALIGNED:
        offset = tl.multiple_of(offset, 8)
    return x + offset


@triton.jit
def _block(
    x, first, n_tokens, stride_t, stride_d,
    TOKENS: tl.constexpr, FROM: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """[TOKENS, CHANNELS] of one head from a token and a channel on; zero outside, which only an EDGE can be."""
    tokens, channels = tl.arange(0, TOKENS), FROM + tl.arange(0, CHANNELS)
    far = tl.zeros([], tl.int64) + first
    at = x + far * stride_t + (tokens[:, None] * stride_t + channels[None, :] * stride_d)
    if EDGE:
        inside = (first + tokens[:, None] < n_tokens) & (channels[None, :] < WIDTH)
        return tl.load(at, mask=inside, other=0.0)
    if FROM + CHANNELS > WIDTH:
        return tl.load(at, mask=(tokens[:, None] >= 0) & (channels[None, :] < WIDTH), other=0.0)
    return tl.load(at)


@triton.jit
def _masked(
    score, mask, row, column, n_queries, n_keys, n_stored, stride_q, stride_k, log2e,
    BOOLEAN: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The scores of the block at (row, column) under a mask: -inf where forbidden, and outside of the sequence.

    `n_stored` keys of a row may be read, n_keys of them count.
    """
    rows, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    zero = tl.zeros([], tl.int64)  # only the corner may be far away
    corner = mask + (zero + row) * stride_q + (zero + column) * stride_k
    at = corner + rows[:, None] * stride_q + columns[None, :] * stride_k
    readable = (row + rows[:, None] < n_queries) & (column + columns[None, :] < n_stored)
    inside = column + columns[None, :] < n_keys
    if BOOLEAN:
        inside = inside & (tl.load(at, mask=readable, other=0) != 0)
    else:
        score += tl.load(at, mask=readable, other=0.0).to(tl.float32) * log2e
    return tl.where(inside, score, float("-inf"))


@triton.jit
def _added(s, top, total):
    """The running maximum and sum 2^(s - top) of every row, with the scores of further keys."""
    higher = tl.maximum(top, tl.max(s, 1))
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    return higher, total * tl.exp2(top - safe) + tl.sum(tl.exp2(s - safe[:, None]), 1)


@triton.jit
def _row_scores(
    q, q_tail, key, mask, row, column, n_queries, n_keys, n_stored, skt, skd, smq, smk, unit, log2e,
    MASKED: tl.constexpr, BOOLEAN: tl.constexpr, WIDTH: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Scores, in bits, of a block of queries with the keys from `column` on."""
    k = _block(key, column, n_keys, skt, skd, KEYS, 0, MAIN, WIDTH, EDGE)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")
    if TAIL:
        k_tail = _block(key, column, n_keys, skt, skd, KEYS, MAIN, TAIL, WIDTH, EDGE)
        s = tl.dot(q_tail, tl.trans(k_tail), s, input_precision="ieee")
    s *= unit
    if MASKED:
        s = _masked(s, mask, row, column, n_queries, n_keys, n_stored, smq, smk, log2e, BOOLEAN, QUERIES, KEYS)
    elif EDGE:
        s = tl.where(column + tl.arange(0, KEYS)[None, :] < n_keys, s, float("-inf"))
    return s


@triton.jit
def _lse_kernel(
    query, key, mask, lse_out,
    sqb, sqh, sqt, sqd, skb, skh, skt, skd, smb, smh, smq, smk, heads, n_queries, n_keys, n_stored, unit, log2e,
    MASKED: tl.constexpr, BOOLEAN: tl.constexpr, ALIGNED: tl.constexpr,
    WIDTH: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Per query the log-sum-exp of its scores, in one sweep over keys; +inf for a query without any key."""
    blocks = tl.cdiv(n_queries, QUERIES)
    both = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * QUERIES
    b, h = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    query, key = _head(query, b, h, sqb, sqh, ALIGNED), _head(key, b, h, skb, skh, ALIGNED)
    mask += b * smb + h * smh
    q = _block(query, row, n_queries, sqt, sqd, QUERIES, 0, MAIN, WIDTH, True)
    q_tail = q  # not read without a TAIL
    if TAIL:
        q_tail = _block(query, row, n_queries, sqt, sqd, QUERIES, MAIN, TAIL, WIDTH, True)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)  # sum 2^(s - top)
    whole = n_keys // KEYS * KEYS
    for column in range(0, whole, KEYS):
        s = _row_scores(
            q, q_tail, key, mask, row, column, n_queries, n_keys, n_stored, skt, skd, smq, smk, unit, log2e,
            MASKED, BOOLEAN, WIDTH, MAIN, TAIL, QUERIES, KEYS, False,
        )  # fmt: skip
        top, total = _added(s, top, total)
    if whole < n_keys:
        s = _row_scores(
            q, q_tail, key, mask, row, whole, n_queries, n_keys, n_stored, skt, skd, smq, smk, unit, log2e,
            MASKED, BOOLEAN, WIDTH, MAIN, TAIL, QUERIES, KEYS, True,
        )  # fmt: skip
        top, total = _added(s, top, total)
    some = total > 0
    lse = (tl.where(some, top, 0.0) + tl.log2(tl.where(some, total, 1.0))) / log2e
    rows = row + tl.arange(0, QUERIES)
    tl.store(lse_out + both.to(tl.int64) * n_queries + rows, tl.where(some, lse, float("inf")), mask=rows < n_queries)


@triton.jit
def _paid(
    k, k_tail, query, lse_in, mask, row, column, n_queries, n_keys, n_stored, sqt, sqd, smq, smk, unit, log2e,
    MASKED: tl.constexpr, BOOLEAN: tl.constexpr, WIDTH: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """(probability, score in bits) of the queries from `row` on with a block of keys.

    A query without any key has lse = inf and pays nothing, and so do rows outside of the sequence.
    """
    rows = tl.arange(0, QUERIES)
    q = _block(query, row, n_queries, sqt, sqd, QUERIES, 0, MAIN, WIDTH, EDGE)
    if EDGE:
        lse = tl.load(lse_in + row + rows, mask=row + rows < n_queries, other=float("inf"))
    else:
        lse = tl.load(lse_in + row + rows)
    s = tl.dot(q, k, input_precision="ieee")
    if TAIL:
        q_tail = _block(query, row, n_queries, sqt, sqd, QUERIES, MAIN, TAIL, WIDTH, EDGE)
        s = tl.dot(q_tail, k_tail, s, input_precision="ieee")
    s *= unit
    if MASKED:
        s = _masked(s, mask, row, column, n_queries, n_keys, n_stored, smq, smk, log2e, BOOLEAN, QUERIES, KEYS)
    return tl.exp2(s - (lse * log2e)[:, None]), s


@triton.jit
def _mass_kernel(
    query, key, mask, lse_in, mass_out, score_out,
    sqb, sqh, sqt, sqd, skb, skh, skt, skd, smb, smh, smq, smk, slb, slh,
    heads, n_queries, n_keys, n_stored, unit, log2e,
    SCORES: tl.constexpr, MASKED: tl.constexpr, BOOLEAN: tl.constexpr, ALIGNED: tl.constexpr,
    WIDTH: tl.constexpr, MAIN: tl.constexpr, TAIL: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Per key the mean over queries of p = exp(score - lse) and, with SCORES, of p * score (in nat)."""
    blocks = tl.cdiv(n_keys, KEYS)
    both = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * KEYS
    b, h = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    query, key = _head(query, b, h, sqb, sqh, ALIGNED), _head(key, b, h, skb, skh, ALIGNED)
    mask += b * smb + h * smh
    lse_in += b * slb + h * slh
    k = tl.trans(_block(key, column, n_keys, skt, skd, KEYS, 0, MAIN, WIDTH, True))
    k_tail = k  # not read without a TAIL
    if TAIL:
        k_tail = tl.trans(_block(key, column, n_keys, skt, skd, KEYS, MAIN, TAIL, WIDTH, True))
    received = tl.zeros([QUERIES, KEYS], tl.float32)  # summed over queries only once, after the sweep
    weighted = tl.zeros([QUERIES, KEYS], tl.float32)
    whole = n_queries // QUERIES * QUERIES
    for row in range(0, whole, QUERIES):
        p, s = _paid(
            k, k_tail, query, lse_in, mask, row, column, n_queries, n_keys, n_stored, sqt, sqd, smq, smk, unit, log2e,
            MASKED, BOOLEAN, WIDTH, MAIN, TAIL, QUERIES, KEYS, False,
        )  # fmt: skip
        received += p
        if SCORES:
            weighted += p * tl.maximum(s, -3e38) if MASKED else p * s  # 0 times -inf is 0 here
    if whole < n_queries:
        p, s = _paid(
            k, k_tail, query, lse_in, mask, whole, column, n_queries, n_keys, n_stored, sqt, sqd, smq, smk, unit, log2e,
            MASKED, BOOLEAN, WIDTH, MAIN, TAIL, QUERIES, KEYS, True,
        )  # fmt: skip
        received += p
        if SCORES:
            weighted += p * tl.maximum(s, -3e38) if MASKED else p * s
    columns = column + tl.arange(0, KEYS)
    at = both.to(tl.int64) * n_keys + columns
    tl.store(mass_out + at, tl.sum(received, 0) / n_queries, mask=columns < n_keys)
    if SCORES:
        tl.store(score_out + at, tl.sum(weighted, 0) / log2e / n_queries, mask=columns < n_keys)


def statistics(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    entropy: bool,
    lse: torch.Tensor | None = None,
    tiles: tuple[Tile, Tile] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(mass float32 [batch, heads, keys], entropy float32 [batch, heads] or None); a mask must have 4 dimensions.

    `lse` [batch, heads, queries]: the log-sum-exp of this very call's scores, in nat, where it is known. `tiles`: of
    the log-sum-exp and of the mass kernel, for benchmarks.
    """
    if query.dtype == torch.float64:
        query, key = query.float(), key.float()
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    boolean = mask is not None and mask.dtype == torch.bool
    view = query
    strides: tuple[int, ...] = (0, 0, 0, 0)
    if mask is not None:
        view = mask.view(torch.uint8) if boolean else mask
        strides = view.expand(batch, heads, queries, keys).stride()
    numbers = (heads, queries, keys, _stored(strides, keys), scale * LOG2E, LOG2E)
    flags = {"MASKED": mask is not None, "BOOLEAN": boolean, "ALIGNED": _aligned(query) and _aligned(key)}
    first, second = tiles or _tiles(query, mask is not None, entropy)
    widths = _widths(width)
    if lse is None:
        lse = torch.empty(batch, heads, queries, device=query.device)
        _lse_kernel[(triton.cdiv(queries, first.queries) * batch * heads,)](
            query, key, view, lse, *query.stride(), *key.stride(), *strides, *numbers,
            **flags, **widths, **_launch(first),
        )  # fmt: skip
    lse = lse if lse.stride(2) == 1 else lse.contiguous()
    mass = torch.empty(batch, heads, keys, device=query.device)
    scores = torch.empty_like(mass) if entropy else mass
    _mass_kernel[(triton.cdiv(keys, second.keys) * batch * heads,)](
        query, key, view, lse, mass, scores, *query.stride(), *key.stride(), *strides, *lse.stride()[:2], *numbers,
        SCORES=entropy, **flags, **widths, **_launch(second),
    )  # fmt: skip
    if not entropy:
        return mass, None
    # mean_i (lse_i - sum_j p_ij s_ij); a query without any key counts as zero
    return mass, lse.masked_fill(torch.isposinf(lse), 0).mean(-1) - scores.sum(-1)


def _tiles(query: torch.Tensor, masked: bool, entropy: bool) -> tuple[Tile, Tile]:
    """The blocks of the log-sum-exp and of the mass kernel that were fastest on an H100 (benchmarks/results)."""
    width = query.shape[-1]
    if query.dtype == torch.float32 or width > 128:
        return (WIDE, WIDE) if query.dtype != torch.float32 else (EXACT, EXACT)
    if masked:
        return SMALL, SMALL
    return (SMALL, SMALL if entropy else LARGE) if width > 80 else (LARGE, SMALL)


def _stored(strides: tuple[int, ...], keys: int) -> int:
    """How many keys of a mask's row may be read: up to a multiple of 16 where rows are stored that far apart.

    The loads are then 16 bytes wide. What lies behind the last key is never used.
    """
    wide = -(-keys // 16) * 16
    return wide if strides[3] == 1 and strides[2] >= wide and strides[2] % 16 == 0 else keys


def _launch(tile: Tile) -> dict[str, int]:
    return {"QUERIES": tile.queries, "KEYS": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}


def _aligned(x: torch.Tensor) -> bool:
    return x.data_ptr() % 16 == 0 and x.stride(3) == 1 and not any(stride % 8 for stride in x.stride()[:3])


def _widths(width: int) -> dict[str, int]:
    """A head's channels as a power of two and a rest: 72 is cut into 64 and 16, not padded to 128."""
    main = 1 << (width.bit_length() - 1)
    if width == main or main < 16:
        return {"WIDTH": width, "MAIN": max(16, main if width == main else 2 * main), "TAIL": 0}
    return {"WIDTH": width, "MAIN": main, "TAIL": max(16, triton.next_power_of_2(width - main))}
