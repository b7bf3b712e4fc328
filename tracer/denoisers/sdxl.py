"""SDXL: a text-to-image UNet through the same seam, from a diffusers pipeline folder or hub id.

Its attention is self and cross, at several resolutions; `sites` says whether the mid block alone is under study (as in
the sink paper) or every transformer block. Sampling lives in `tracer.samplers`; refiner and inpainting pipelines are
not supported, and no SDXL ships with the project.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from interventions import TokenLayout
from interventions.seam.sites import sites as attention_sites
from tracer.denoisers import prompted
from tracer.denoisers.base import CheckpointError, Evaluation, ModelFamily, Sample
from tracer.denoisers.checkpoints import find
from tracer.denoisers.conditions import (
    Condition,
    Conditions,
    Encode,
    clip_tokens,
    pipeline_encoder,
    real_tokens,
    require_parts,
)
from tracer.denoisers.fingerprint import fingerprinted
from tracer.denoisers.images import Size, square
from tracer.denoisers.vae import decode, load_vae, upscale
from tracer.denoisers.weights import load_network, load_text_encoders
from tracer.denoisers.word_tokens import Word, words_of

PIPELINES = ("StableDiffusionXLPipeline",)
PARTS = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


@dataclass
class SDXL:
    """An SDXL behind the `Denoiser` protocol. `studied`: "mid" or "all", which attention the seam is attached to.

    `zero_negative`: the empty negative prompt is all zeros instead of the encoders' answer (SDXL base is trained so).
    """

    model: Any
    decoder: Any
    conditions: Conditions
    checkpoint: dict[str, Any]
    scheduler: dict[str, Any]
    prediction: str
    size: int
    studied: Literal["mid", "all"] = "mid"
    negative: str = ""
    zero_negative: bool = True
    defaults: dict[str, Any] = field(default_factory=lambda: {"sampler": "ddim", "steps": 50, "guidance": 5.0})
    dtype: torch.dtype = torch.float32
    name: str = "sdxl"
    prompted: bool = True

    def __post_init__(self) -> None:
        self.shape = (self.model.config.in_channels, self.size, self.size)
        side = attention_side(self.model.config, self.size, self.studied)
        self.layout = TokenLayout(grid=(side, side), text=self.conditions.text)
        self.attended = self.model.mid_block if self.studied == "mid" else self.model
        attention = attention_sites(self.attended)
        self.layers = 1 + max(site.layer for site in attention)
        prefix = "mid_block." if self.studied == "mid" else ""
        names = {site.layer: prefix + site.name.rpartition(".")[0] for site in attention}
        self.sites = tuple(names[layer] for layer in range(self.layers))
        self.heads = max(int(getattr(site.module, "heads", 1)) for site in attention)
        self.device = self.model.device
        side = self.size * upscale(self.decoder)
        self.image_size = (side, side)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Encode the prompts of a whole run at once; without it every unit loads the encoders for its own."""
        prompted.prepare(self, samples)

    def padding(self, samples: Sequence[Sample]) -> np.ndarray:
        """Bool [sample, token]: text tokens that only fill up the sequence."""
        return prompted.padding(self, samples)

    def words(self, samples: Sequence[Sample]) -> list[Sequence[Word]]:
        """Of each sample the words of its prompt and their text tokens."""
        return prompted.words(self, samples)

    def opened(
        self, samples: Sequence[Sample], *, guidance: float, mask_seed: int, record: Iterable[str] = ()
    ) -> AbstractContextManager[Evaluation]:
        """The model under the seam, for these samples' prompts. Guidance 1 evaluates the positive half only."""
        return prompted.opened(self, samples, guidance=guidance, mask_seed=mask_seed, record=record)

    def unprompted(self, count: int) -> Sequence[Tensor]:
        """What guidance moves away from, for so many samples."""
        negative = prompted.encoded(self, [self.negative] * count)
        return [torch.zeros_like(part) for part in negative] if self.negative == "" and self.zero_negative else negative

    def forward(self, rows: Tensor, timestep: float, tokens: Tensor, pooled: Tensor) -> Tensor:
        """The network's output for rows [n, channel, y, x]."""
        t = torch.full((len(rows),), int(timestep), device=self.device)
        sizes = [*self.image_size, 0, 0, *self.image_size]  # original size, crop corner, target size
        time_ids = torch.tensor([sizes] * len(rows), device=self.device, dtype=tokens.dtype)
        output = self.model(
            rows.to(self.model.dtype),
            t,
            encoder_hidden_states=tokens,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        )
        return output.sample.to(rows.dtype)

    def decode(self, x0: Tensor) -> np.ndarray:
        """uint8 [n, y, x, 3], latents through the VAE one at a time."""
        return decode(self.decoder, x0)


def attention_side(config: Any, size: int, studied: str) -> int:
    """Side of the token grid: the mid block's, or of the finest level with attention (each level halves it)."""
    levels = [level for level, kind in enumerate(config.down_block_types) if "CrossAttn" in kind]
    level = len(config.down_block_types) - 1 if studied == "mid" or not levels else levels[0]
    for _ in range(level):
        size = -(-size // 2)
    return size


def load_sdxl(
    checkpoint: str | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    sites: Literal["mid", "all"] = "mid",
    size: Size | None = None,
    negative: str = "",
    variant: str | None = None,
) -> SDXL:
    """An SDXL pipeline from a folder or the hub.

    `sites`: the attention under study, "mid" (the mid block, as the sink paper has it) or "all" transformer blocks.
    `size`: of the square image, None for the checkpoint's own. `variant`: of the weights, such as fp16.
    Raises CheckpointError.
    """
    if checkpoint is None:
        raise CheckpointError(
            "no SDXL ships with the project: name one with --checkpoint, a pipeline folder or a hub id such as "
            "stabilityai/stable-diffusion-xl-base-1.0"
        )
    if sites not in ("mid", "all"):
        raise CheckpointError(f"sites {sites!r}: choose mid (the mid block alone) or all")
    pixels = square(size, checkpoint)
    folder, name = find(checkpoint, "sdxl", PIPELINES, PARTS, variant)
    require_parts(folder, PARTS, checkpoint)
    scheduler, prediction = beta_schedule(folder / "scheduler" / "scheduler_config.json")
    with fingerprinted(folder, ("model_index.json", *PARTS)) as sha256:
        model, vae = _unet(folder, device, dtype, variant), load_vae(folder, device, dtype, variant)
    if vae.config.force_upcast:
        vae = vae.float()  # its activations overflow in half precision
    factor = upscale(vae)
    unit = factor * 2 ** (len(model.config.down_block_types) - 1)
    if pixels is not None and (pixels <= 0 or pixels % unit):
        raise CheckpointError(f"size {pixels}: {checkpoint} makes images of a multiple of {unit}")
    index = json.loads((folder / "model_index.json").read_text())
    return SDXL(
        model=model,
        decoder=vae,
        conditions=Conditions(_text_encoders(folder, model, variant), clip_tokens(folder)),
        checkpoint={"id": name, "sha256": sha256(), "sites": sites}
        | ({"variant": variant} if variant else {})
        | ({"negative": negative} if negative else {}),
        scheduler=scheduler,
        prediction=prediction,
        size=model.config.sample_size if pixels is None else pixels // factor,
        studied=sites,
        negative=negative,
        zero_negative=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _unet(folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None) -> Any:
    from diffusers import UNet2DConditionModel

    model = load_network(UNet2DConditionModel, folder / "unet", "an SDXL UNet", device, dtype, variant)
    if model.config.addition_embed_type != "text_time":
        raise CheckpointError(f"{folder / 'unet'} has no pooled text and size conditions: it is no SDXL UNet")
    return model


def beta_schedule(file: Path) -> tuple[dict[str, Any], str]:
    """Betas and prediction type of a scheduler file, for DDIM. Raises CheckpointError where DDIM would be wrong."""
    try:
        config = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    kind = config.get("_class_name", "")
    if kind.startswith("FlowMatch") or "beta_schedule" not in config:
        raise CheckpointError(f"{file} is a {kind or 'file without _class_name'} without betas: not an SDXL scheduler")
    if config["beta_schedule"] not in ("linear", "scaled_linear") or config.get("rescale_betas_zero_snr"):
        raise CheckpointError(f"{file}: its betas are not supported (linear or scaled_linear, not rescaled)")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise CheckpointError(f"{file}: prediction type {prediction!r} is not supported (epsilon or v_prediction)")
    settings = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 0,
        "set_alpha_to_one": False,
    }
    return {key: config.get(key, default) for key, default in settings.items()}, prediction


def _text_encoders(folder: Path, unet: Any, variant: str | None) -> Encode:
    """Encodes prompts by the pipeline's own two encoders."""

    def load() -> Any:
        from diffusers import StableDiffusionXLPipeline

        given = load_text_encoders(folder, ("text_encoder", "text_encoder_2"), unet.dtype, variant)
        return StableDiffusionXLPipeline.from_pretrained(folder, unet=unet, vae=None, **given)

    return pipeline_encoder(load, _encode_one, folder, unet.device)


def _encode_one(pipeline: Any, prompt: str) -> Condition:
    tokens, _, pooled, _ = pipeline.encode_prompt(prompt=prompt, do_classifier_free_guidance=False)
    real = real_tokens(pipeline.tokenizer, prompt, pipeline.tokenizer.model_max_length)
    words = words_of(prompt, [(pipeline.tokenizer, pipeline.tokenizer.model_max_length)])
    return Condition(tokens[0].cpu(), pooled[0].cpu(), real, words)


FAMILY = ModelFamily(
    name="sdxl",
    load=load_sdxl,
    help="SDXL, text-to-image, a UNet with DDIM; no weights ship",
    checkpoints="stabilityai/stable-diffusion-xl-base-1.0",
    prompted=True,
    kinds=PIPELINES,
)
