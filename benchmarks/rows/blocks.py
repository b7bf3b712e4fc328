"""A block of SD3's width under the seam beside the stock block on the same rows: what a measured layer costs.

Clean and one arm, mass and sinks recorded; 24 heads of 64 channels, 1024 image and 333 text tokens, bfloat16. Random
weights. One block is called by itself, so nothing of the rest of a network is in the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measure import Opened, compare, plain
from benchmarks.models import in_precision, under_seam
from benchmarks.rows.cases import CPU
from benchmarks.table import Line, Settings, line_of
from interventions import TokenLayout, parse

LIMIT = 1.20
ROWS = 2
"""Clean lane and one arm, one sample, no guidance."""


def lines(settings: Settings) -> Iterator[Line]:
    """A graph arm and a sink arm, which have the limit; the seam without records, which is stated."""
    sizes = (2, 8, 4, 5, "R1S2") if settings.smoke else (24, 64, 32, 333, "R4S64")
    heads, width, side, words, graph = sizes
    layout = TokenLayout((side, side), text=words)
    dtype = torch.float32 if settings.smoke else torch.bfloat16
    model = in_precision(one_block(heads, width, side), dtype)
    (block,) = model.transformer_blocks
    image, text, time = (
        torch.randn(ROWS, *shape, heads * width, dtype=dtype) for shape in ((side * side,), (words,), ())
    )

    def call() -> None:
        block(hidden_states=image, encoder_hidden_states=text, temb=time)

    def seam(spec: str, *record: str) -> Opened:
        return under_seam(call, model, layout, (parse("clean"), parse(spec)), 1, record)

    recorded = ("mass", "sinks")
    works = {"stock block": plain(call)} | {
        f"SD3-width block, clean + {graph}, mass and sinks": seam(graph, *recorded),
        "SD3-width block, clean + sink-k1, mass and sinks": seam("sink-k1", *recorded),
        f"SD3-width block, clean + {graph}, nothing recorded": seam(graph),
    }
    with torch.no_grad():
        rows = compare(
            "blocks", works, "stock block", CPU, rounds=settings.rounds, calls=1, warmup=1, clock=settings.clock
        )
    for row, limit in zip(rows[1:], (LIMIT, LIMIT, None), strict=True):
        yield line_of(row, settings.rounds, limit)


def one_block(heads: int, width: int, side: int) -> torch.nn.Module:
    """An SD3 with one joint block, not the last, whose text comes to an end."""
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        num_layers=2, num_attention_heads=heads, attention_head_dim=width, sample_size=2 * side, patch_size=2,
        in_channels=16, out_channels=16, joint_attention_dim=16, caption_projection_dim=heads * width,
        pooled_projection_dim=16, pos_embed_max_size=side,
    )  # fmt: skip
    model.transformer_blocks = model.transformer_blocks[:1]
    return model
