"""`python -m benchmarks.real_size`: SD3-medium at its real size, random weights, traced from its own pipeline call.

Nothing is downloaded: the transformer (2 billion weights) and the VAE have the configuration of the published ones and
weights drawn here; prompts are random embeddings in the place of three text encoders. What it makes means nothing; it
shows that the whole way fits a machine, and prints how much memory and time it took. Times are of a machine that does
nothing else.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

import tracer
from tracer.denoisers import usable_device
from tracer.denoisers.base import DTYPES
from tracer.price import peak_memory

TEXT, WIDTH, POOLED = 333, 4096, 2048
"""Text tokens of SD3 (77 of CLIP, 256 of T5), and the widths of what its encoders give."""


def sd3_medium(dtype: torch.dtype, device: torch.device) -> Any:
    """A StableDiffusion3Pipeline without text encoders, as large as the published one."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that the weights never stand in memory twice
    try:
        transformer = SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=WIDTH, caption_projection_dim=1536,
            pooled_projection_dim=POOLED, out_channels=16, pos_embed_max_size=192,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
    finally:
        torch.set_default_dtype(default)
    nothing = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {"transformer": transformer.eval(), "vae": vae.eval(), "scheduler": scheduler}
    return StableDiffusion3Pipeline(**parts, **nothing).to(device)


def embeddings(dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """What the text encoders would give for one prompt and its negative."""
    drawn = torch.Generator().manual_seed(1)
    shapes = {"prompt_embeds": (1, TEXT, WIDTH), "pooled_prompt_embeds": (1, POOLED)}
    both = shapes | {f"negative_{name}": shape for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=drawn).to(device, dtype) for name, shape in both.items()}


@click.command()
@click.option("--pixels", default=512, help="Side of the picture.")
@click.option("--steps", default=2, help="Sampling steps.")
@click.option("--mask", "masks", multiple=True, default=("R4S32", "sink-k5"), help="Arms, repeatable.")
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16", help="Of the networks.")
@click.option("--device", default=None, help="Default: cuda where there is one.")
def main(pixels: int, steps: int, masks: tuple[str, ...], dtype: str, device: str | None) -> None:
    """Trace SD3-medium with random weights, from its own pipeline call, and print memory and time."""
    where, kind = usable_device(device), getattr(torch, dtype)
    begun = time.perf_counter()
    pipe = sd3_medium(kind, where)
    weights = sum(p.numel() * p.element_size() for part in (pipe.transformer, pipe.vae) for p in part.parameters())
    _say(f"made: {weights / 2**30:.2f} GiB of weights", begun, where)
    begun = time.perf_counter()
    denoiser = tracer.from_pipeline(
        pipe, height=pixels, width=pixels, num_inference_steps=steps, guidance_scale=7.0, **embeddings(kind, where)
    )
    _say(f"found: {denoiser.layout}, agreement {denoiser.probed.agreement:.2f}, "
         f"{denoiser.probed.forwards} forwards, most broken off", begun, where)  # fmt: skip
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = "latents,images,replay,mass,sinks,decomposition"
        path = tracer.trace(denoiser, masks, samples=1, record=record, out=Path(folder) / "run", progress=_tell)
        run = tracer.open_run(path)
        errors = run["metrics/delta_rel"].isel(sample=0, step=-1).to_series()
    _say(f"traced: {steps} steps, {', '.join(masks)} and the floor; lanes: {denoiser.lanes.why}", begun, where)
    print("relative error at the end:", ", ".join(f"{arm} {error:.3g}" for arm, error in errors.items()))


def _tell(done: int, total: int) -> None:
    print(f"step {done} of {total}", file=sys.stderr, flush=True)


def _say(what: str, begun: float, device: torch.device) -> None:
    print(f"{what}; {time.perf_counter() - begun:.0f} s, peak memory {peak_memory(device) / 2**30:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
