"""Attention mass beside one fused attention call on the same queries and keys, at SD3's joint sequence."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import compare, plain
from benchmarks.rows.cases import CPU
from benchmarks.table import Line, Settings, line_of
from interventions import attention_mass

TOKENS, HEADS, WIDTH = 4429, 4, 64
"""4096 image and 333 text tokens; SD3-medium has 24 such heads, which cost six times as much."""
LIMIT = 0.85


def lines(settings: Settings) -> Iterator[Line]:
    """float32 and bfloat16 without a mask, which has the limit, and under one, which is stated."""
    tokens = 65 if settings.smoke else TOKENS
    for dtype in (torch.float32, torch.bfloat16):
        # heads cut out of the channels, as networks hand them over
        query, key, value = (torch.randn(1, tokens, HEADS, WIDTH, dtype=dtype).transpose(1, 2) for _ in range(3))
        allowed = (torch.rand(tokens, tokens) < 0.25).fill_diagonal_(True)
        bias = torch.zeros(tokens, tokens, dtype=dtype).masked_fill(~allowed, -torch.inf)
        for mask, limit in ((None, LIMIT), (bias, None)):
            works = {
                "fused": lambda q=query, k=key, v=value, m=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
                "mass": lambda q=query, k=key, m=mask: attention_mass(q, k, m),
            }
            name = str(dtype).removeprefix("torch.") + ("" if mask is None else ", under a mask (both)")
            with torch.no_grad():
                rows = compare(
                    f"mass, {name}", {work: plain(call) for work, call in works.items()}, "fused", CPU,
                    rounds=settings.rounds, calls=1, warmup=1, clock=settings.clock,
                )  # fmt: skip
            work = f"mass / fused attention, {tokens} tokens, {HEADS} heads, {name}"
            yield line_of(rows[1], settings.rounds, limit, work=work)
