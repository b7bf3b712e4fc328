"""The autoencoder of a latent-space pipeline: loaded from its folder, and latents decoded one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.denoisers.images import to_uint8
from tracer.denoisers.weights import load_network


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The pipeline's VAE (a diffusers AutoencoderKL); None for pixel-space models and bare transformers."""
    if not (folder / "vae").is_dir():
        return None
    from diffusers import AutoencoderKL

    return load_network(AutoencoderKL, folder / "vae", "a VAE", device, dtype)


def upscale(vae: Any) -> int:
    """Pixels per latent, along a side; 1 where there is no VAE."""
    return 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def decode(vae: Any, x0: Tensor) -> np.ndarray:
    """States [n, channel, y, x] -> uint8 [n, y, x, 3], through the VAE by its own scale and shift; None: are pixels."""
    if vae is None:
        return to_uint8(x0)
    parameter = next(vae.parameters())
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = (x0 / vae.config.scaling_factor + shift).to(parameter.device, parameter.dtype)
    return np.concatenate([to_uint8(vae.decode(one[None]).sample) for one in latents])
