"""The autoencoder of a latent-space pipeline: loaded from its folder, and latents decoded one at a time."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.denoisers.images import to_uint8
from tracer.denoisers.weights import load_network


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None = None) -> Any:
    """The pipeline's VAE (a diffusers AutoencoderKL); None for pixel-space models and bare transformers."""
    if not (folder / "vae").is_dir():
        return None
    from diffusers import AutoencoderKL

    return load_network(AutoencoderKL, folder / "vae", "a VAE", device, dtype, variant)


def upscale(vae: Any) -> int:
    """Pixels per latent, along a side; 1 where there is no VAE."""
    return 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def decode(vae: Any, x0: Tensor) -> np.ndarray:
    """States [n, channel, y, x] -> uint8 [n, y, x, 3], through the VAE by its own scale and shift; None: are pixels.

    Warns where finite states become pictures that are not: a VAE may overflow where the trajectory did not.
    """
    if vae is None:
        return to_uint8(x0)
    parameter = next(vae.parameters())
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = (x0 / vae.config.scaling_factor + shift).to(parameter.device, parameter.dtype)
    pictures, broken = [], 0
    for state, latent in zip(x0, latents, strict=True):
        picture = vae.decode(latent[None]).sample
        broken += bool(torch.isfinite(state).all() and not torch.isfinite(picture).all())
        pictures.append(to_uint8(picture))
    if broken:
        warnings.warn(
            f"the VAE turned {broken} of {len(pictures)} finite latents into NaN, whose pictures are black: "
            "use --dtype bfloat16 or float32",
            stacklevel=2,
        )
    return np.concatenate(pictures)
