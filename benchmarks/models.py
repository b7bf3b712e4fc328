"""Networks of the real sizes with random weights, and the naive attention that the seam is held against.

Random weights cost the same time as trained ones. Nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.measure import Opened, Work
from interventions import TokenLayout, attend
from tracer.quiet import quiet


@dataclass(frozen=True)
class Subject:
    """A network and how to call it on some rows. `mask` is the graph that is benchmarked on its grid."""

    name: str
    model: torch.nn.Module
    layout: TokenLayout
    mask: str
    inputs: Callable[[int], dict[str, Any]]
    """Keyword arguments of one call on this many rows."""


def in_precision(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The network in this precision, to be evaluated; diffusers' advice to load it so does not fit random weights."""
    with quiet():
        model = model.to(dtype)
    return model.eval().requires_grad_(False)


def dit(device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> Subject:
    """DiT-XL/2 at 256 px: 28 layers, width 1152, 16 heads, 16 x 16 tokens; `tiny` to smoke-test."""
    from diffusers import DiTTransformer2DModel

    sizes = (2, 2, 8, 8) if tiny else (28, 16, 72, 32)
    layers, heads, width, side = sizes
    with torch.device(device):
        model = DiTTransformer2DModel(
            num_layers=layers, num_attention_heads=heads, attention_head_dim=width, sample_size=side, patch_size=2,
            in_channels=4, out_channels=8, num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
        )  # fmt: skip
    model = in_precision(model, dtype)

    def inputs(rows: int) -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(rows, 4, side, side, device=device, dtype=dtype),
            "timestep": torch.full((rows,), 500, device=device),
            "class_labels": torch.zeros(rows, dtype=torch.long, device=device),
        }

    grid = (side // 2, side // 2)
    return Subject(
        "DiT-XL/2" if not tiny else "tiny DiT", model, TokenLayout(grid), "R1S2" if tiny else "R4S32", inputs
    )


def sd3(device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> Subject:
    """SD3-medium at 1024 px: 24 layers, width 1536, 24 heads, 4096 image and 333 text tokens; `tiny` to smoke-test."""
    from diffusers import SD3Transformer2DModel

    sizes = (2, 2, 8, 8, 5, 16, 16) if tiny else (24, 24, 64, 128, 333, 4096, 2048)
    layers, heads, width, side, words, joint, pooled = sizes
    with torch.device(device):
        model = SD3Transformer2DModel(
            num_layers=layers, num_attention_heads=heads, attention_head_dim=width, sample_size=side, patch_size=2,
            in_channels=16, out_channels=16, joint_attention_dim=joint, caption_projection_dim=heads * width,
            pooled_projection_dim=pooled, pos_embed_max_size=max(side // 2, 8 if tiny else 192),
        )  # fmt: skip
    model = in_precision(model, dtype)

    def inputs(rows: int) -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(rows, 16, side, side, device=device, dtype=dtype),
            "timestep": torch.full((rows,), 500.0, device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(rows, words, joint, device=device, dtype=dtype),
            "pooled_projections": torch.randn(rows, pooled, device=device, dtype=dtype),
        }

    layout = TokenLayout((side // 2, side // 2), text=words)
    return Subject("SD3-medium" if not tiny else "tiny SD3", model, layout, "R1S2" if tiny else "R16S570", inputs)


def flux(device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> Subject:
    """FLUX.1 at 1024 px: 19 + 38 layers, width 3072, 24 heads, 512 text and 4096 image tokens; `tiny` to smoke-test.

    Its text comes first. A layout has text last, so it is laid out as prefix tokens here: masks and mass are where they
    belong, only the kind of token is called by another name.
    """
    from diffusers import FluxTransformer2DModel

    sizes = (1, 1, 2, 16, 5, 8, 16, 8) if tiny else (19, 38, 24, 128, 512, 64, 4096, 768)
    double, single, heads, width, words, side, joint, pooled = sizes
    rotary = (4, 6, 6) if tiny else (16, 56, 56)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # 12 billion weights never exist in float32
    try:
        with torch.device(device):
            model = FluxTransformer2DModel(
                patch_size=1, in_channels=64, num_layers=double, num_single_layers=single, num_attention_heads=heads,
                attention_head_dim=width, joint_attention_dim=joint, pooled_projection_dim=pooled,
                guidance_embeds=True, axes_dims_rope=rotary,
            )  # fmt: skip
    finally:
        torch.set_default_dtype(before)
    model = model.eval().requires_grad_(False)
    grid = torch.zeros(side, side, 3, device=device)
    grid[..., 1], grid[..., 2] = torch.arange(side, device=device)[:, None], torch.arange(side, device=device)

    def inputs(rows: int) -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(rows, side**2, 64, device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(rows, words, joint, device=device, dtype=dtype),
            "pooled_projections": torch.randn(rows, pooled, device=device, dtype=dtype),
            "timestep": torch.full((rows,), 0.5, device=device, dtype=dtype),
            "guidance": torch.full((rows,), 3.5, device=device, dtype=torch.float32),
            "img_ids": grid.view(-1, 3),
            "txt_ids": torch.zeros(words, 3, device=device),
        }

    layout = TokenLayout((side, side), prefix=words)
    return Subject("FLUX.1" if not tiny else "tiny FLUX", model, layout, "R1S2" if tiny else "R16S570", inputs)


def under_seam(
    call: Work, model: torch.nn.Module, layout: TokenLayout, lanes: Sequence[Any], samples: int,
    record: Sequence[str] = (),
) -> Opened:  # fmt: skip
    """A call of a network under the seam, as a run makes it in a step: begun, called, and what was recorded taken."""

    @contextmanager
    def opened() -> Iterator[Work]:
        with attend(model, lanes, layout=layout, samples=range(samples), record=record) as recorder:

            def work() -> None:
                recorder.begin(0, 50, lanes)
                call()
                recorder.take()

            yield work

    return opened


class NaiveAttention(TorchFunctionMode):
    """Attention that holds every tokens x tokens x heads matrix: what reading the probabilities costs without a seam.

    `allowed` [query, key] is A * M renormalised, as -inf before the softmax; `mass` keeps the mean over queries.
    """

    def __init__(self, allowed: Tensor | None = None, mass: bool = False):
        super().__init__()
        self.allowed, self.mass = allowed, mass
        self.masses: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace `F.scaled_dot_product_attention`, leave everything else."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self.attention(*args, **(kwargs or {}))

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """softmax(q k^T / sqrt(d)) v with the matrix in memory."""
        if attn_mask is not None or is_causal or enable_gqa or dropout_p:
            raise NotImplementedError("the benchmarked models call attention without masks")
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if self.allowed is not None:
            scores = scores.masked_fill(~self.allowed, -math.inf)
        probability = scores.float().softmax(-1).to(query.dtype)
        if self.mass:
            self.masses.append(probability.float().mean(-2))
        return probability @ value
