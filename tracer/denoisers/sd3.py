"""SD3 and SD3.5, text-to-image with rectified flow: the embedded pixel-space checkpoint, or a diffusers pipeline.

A folder or hub id is taken apart as `StableDiffusion3Pipeline` parts: prompts are encoded once and alone, the encoders
are freed, the guidance batch is [negative, positive], latents are decoded one at a time. Sampling lives in
`tracer.samplers`; the pipeline's own loop is not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interventions import TokenLayout
from tracer.denoisers import prompted
from tracer.denoisers.base import CheckpointError, Evaluation, ModelFamily, Sample
from tracer.denoisers.checkpoints import find, is_embedded, read_json
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
from tracer.denoisers.hub import INDEX
from tracer.denoisers.images import Size, square
from tracer.denoisers.vae import decode, load_vae, upscale
from tracer.denoisers.weights import LOADING, check_finite, load_network, load_text_encoders
from tracer.denoisers.word_tokens import END as ENDED
from tracer.denoisers.word_tokens import PADDING, Word, words_of

PIPELINES, NETWORKS = ("StableDiffusion3Pipeline",), ("SD3Transformer2DModel",)
PARTS = ("transformer", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
THIRD = ("text_encoder_3", "tokenizer_3")
T5_TOKENS = 256


@dataclass
class SD3:
    """An SD3 behind the `Denoiser` protocol. `negative` is the prompt that guidance moves away from."""

    model: Any
    conditions: Conditions
    checkpoint: dict[str, Any]
    scheduler: dict[str, Any]
    size: int
    defaults: dict[str, Any] = field(default_factory=lambda: {"sampler": "flow", "steps": 28, "guidance": 7.0})
    decoder: Any = None
    negative: str = ""
    dtype: torch.dtype = torch.float32
    name: str = "sd3"
    prediction: str = "flow"
    prompted: bool = True

    def __post_init__(self) -> None:
        config, self.attended = self.model.config, self.model
        self.shape = (config.in_channels, self.size, self.size)
        side = self.size // config.patch_size
        self.layout = TokenLayout(grid=(side, side), text=self.conditions.text)
        self.layers = len(self.model.transformer_blocks)
        self.sites = tuple(f"transformer_blocks.{layer}" for layer in range(self.layers))
        self.heads = config.num_attention_heads
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
        return prompted.encoded(self, [self.negative] * count)

    def forward(self, rows: Tensor, timestep: float, tokens: Tensor, pooled: Tensor) -> Tensor:
        """The network's output for rows [n, channel, y, x]."""
        t = torch.full((len(rows),), float(timestep), device=self.device)
        output = self.model(
            rows.to(self.model.dtype), timestep=t, encoder_hidden_states=tokens, pooled_projections=pooled
        )
        return output.sample.to(rows.dtype)

    def decode(self, x0: Tensor) -> np.ndarray:
        """uint8 [n, y, x, 3]: pixels as they are, latents through the VAE one at a time."""
        return decode(self.decoder, x0)


def load_sd3(
    checkpoint: str | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    size: Size | None = None,
    t5: bool | None = None,
    negative: str = "",
    variant: str | None = None,
) -> SD3:
    """An embedded SD3 (None or embedded:NAME), a folder its training script wrote, or a pipeline (folder, hub id).

    `size`: of the square image, None for the checkpoint's own. `t5`: use the third text encoder; None uses it when the
    checkpoint has one, and without it its tokens are zeros, as in the pipeline. `variant`: of the weights, such as
    fp16. Raises CheckpointError.
    """
    pixels = square(size, checkpoint or "sd3")
    if checkpoint is not None and (own := Path(checkpoint).expanduser() / "words.safetensors").is_file():
        return _load_embedded(own.parent, own.parent.name, device, dtype, pixels, t5, negative)
    embedded = is_embedded(checkpoint)
    wanted = (*PARTS, *THIRD) if t5 in (None, True) else PARTS
    folder, name = find(checkpoint, "sd3", NETWORKS if embedded else PIPELINES, wanted, variant)
    if embedded:
        return _load_embedded(folder, name, device, dtype, pixels, t5, negative)
    return _load_pipeline(folder, name, device, dtype, pixels, t5, negative, variant)


def _transformer(folder: Path, device: torch.device, dtype: torch.dtype, variant: str | None = None) -> Any:
    from diffusers import SD3Transformer2DModel

    return load_network(SD3Transformer2DModel, folder / "transformer", "an SD3 transformer", device, dtype, variant)


def _load_embedded(
    folder: Path,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    pixels: int | None,
    t5: bool | None,
    negative: str,
) -> SD3:
    """A pixel-space transformer with a learned word encoder (`embedded.words`)."""
    if t5:
        raise CheckpointError(f"{name} has no T5: its text encoder is a table of words")
    with fingerprinted(folder) as sha256:
        model, conditions = _transformer(folder, device, dtype), word_conditions(folder)
    size = model.config.sample_size
    if pixels not in (None, size):
        raise CheckpointError(f"{name} makes images of {size} pixels only, not {pixels}")
    settings = json.loads((folder / "sampling.json").read_text()) if (folder / "sampling.json").is_file() else {}
    defaults = {"sampler": "flow", "steps": settings.get("steps", 28), "guidance": settings.get("guidance", 3.0)}
    return SD3(
        model=model,
        conditions=conditions,
        checkpoint={"id": name, "sha256": sha256()} | ({"negative": negative} if negative else {}),
        scheduler={"num_train_timesteps": 1000, "shift": settings.get("shift", 1.0)},
        size=size,
        defaults=defaults,
        negative=negative,
    )


def word_conditions(folder: Path) -> Conditions:
    """Prompts through the embedded word encoder, in float32; the end token counts as text, what follows as padding."""
    from safetensors.torch import load_file

    from tracer.denoisers.embedded.words import PAD, WordEncoder, tokenize, words

    try:
        known = json.loads((folder / "vocabulary.json").read_text())
        weights = {key: value.float() for key, value in load_file(folder / "words.safetensors").items()}
        context, width = weights["position"].shape
        encoder = WordEncoder(len(weights["embedding.weight"]), width, context)
        encoder.load_state_dict(weights)
    except LOADING as error:
        raise CheckpointError(f"{folder} holds no usable words.safetensors and vocabulary.json: {error}") from error
    check_finite(encoder.eval().requires_grad_(False), folder)

    def named(words: Sequence[str]) -> list[Word]:
        own: list[Word] = [(word, (k,)) for k, word in enumerate(words)]
        rest = tuple(range(len(own) + 1, context))
        return [*own, (ENDED, (len(own),)), *([(PADDING, rest)] if rest else [])]

    def encode(prompts: Sequence[str]) -> list[Condition]:
        encoded = []
        for prompt in prompts:
            ids = tokenize([prompt], known, context)
            tokens, pooled = encoder(ids)
            encoded.append(Condition(tokens[0], pooled[0], ids[0] != PAD, named(words(prompt)[: context - 1])))
        return encoded

    return Conditions(encode, context, lambda prompt: [word for word in words(prompt) if word not in known])


def _load_pipeline(
    folder: Path,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    pixels: int | None,
    t5: bool | None,
    negative: str,
    variant: str | None,
) -> SD3:
    """The parts of a `StableDiffusion3Pipeline`; its text encoders are loaded when prompts are encoded."""
    require_parts(folder, PARTS, name)
    has_t5 = all((folder / part).is_dir() for part in THIRD)
    if t5 and not has_t5:
        raise CheckpointError(f"{name} has no text_encoder_3 and tokenizer_3: load it without T5")
    if t5 is None and not has_t5:
        _left_out_on_purpose(folder, name)
    t5 = has_t5 if t5 is None else t5
    scheduler = flow_schedule(folder / "scheduler" / "scheduler_config.json")
    loaded = ("model_index.json", *PARTS, *(THIRD if t5 else ()))
    with fingerprinted(folder, loaded) as sha256:
        model, vae = _transformer(folder, device, dtype, variant), load_vae(folder, device, dtype, variant)
    factor = upscale(vae)
    unit = factor * model.config.patch_size
    most = unit * model.config.pos_embed_max_size
    if pixels is not None and (pixels % unit or not 0 < pixels <= most):
        raise CheckpointError(f"size {pixels}: {name} makes images of a multiple of {unit} up to {most}")
    return SD3(
        model=model,
        conditions=Conditions(_text_encoders(folder, model, t5, variant), clip_tokens(folder) + T5_TOKENS),
        checkpoint={
            "id": name,
            "sha256": sha256(),
            "t5": t5,
        }
        | ({"variant": variant} if variant else {})
        | ({"negative": negative} if negative else {}),
        scheduler=scheduler,
        size=model.config.sample_size if pixels is None else pixels // factor,
        decoder=vae,
        negative=negative,
    )


def flow_schedule(file: Path) -> dict[str, Any]:
    """Training timesteps and shift of a flow-matching scheduler file. Raises CheckpointError for any other kind."""
    try:
        config = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    kind = config.get("_class_name", "")
    if not kind.startswith("FlowMatch"):
        raise CheckpointError(f"{file} is a {kind or 'file without _class_name'}: a flow-matching one is needed")
    if config.get("use_dynamic_shifting"):
        raise CheckpointError(f"{file} shifts its sigmas by image size (use_dynamic_shifting), which is not supported")
    return {"num_train_timesteps": config.get("num_train_timesteps", 1000), "shift": float(config.get("shift", 3.0))}


def _left_out_on_purpose(folder: Path, name: str) -> None:
    """Refuse a folder whose index names the third text encoder while it is not there: a copy that is not whole."""
    index = read_json(folder / INDEX[0])
    if lacking := [part for part in THIRD if (index.get(part) or [None])[0] and not (folder / part).is_dir()]:
        raise CheckpointError(
            f"{name}: model_index.json names {' and '.join(lacking)}, missing in {folder}: fetch the rest, or type "
            "--no-t5 to run without T5, whose tokens are then zeros"
        )


def _text_encoders(folder: Path, transformer: Any, t5: bool, variant: str | None) -> Encode:
    """Encodes prompts by the pipeline's own encoders, with or without its T5."""

    def load() -> Any:
        from diffusers import StableDiffusion3Pipeline

        encoders = ("text_encoder", "text_encoder_2", *(["text_encoder_3"] if t5 else []))
        given = load_text_encoders(folder, encoders, transformer.dtype, variant) | ({} if t5 else dict.fromkeys(THIRD))
        return StableDiffusion3Pipeline.from_pretrained(folder, transformer=transformer, vae=None, **given)

    return pipeline_encoder(load, _encode_one, folder, transformer.device)


def _encode_one(pipeline: Any, prompt: str) -> Condition:
    """CLIP tokens, then T5 tokens (zeros without T5), as `encode_prompt` joins them."""
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompt=prompt, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS
    )
    length = pipeline.tokenizer.model_max_length
    real = [real_tokens(pipeline.tokenizer, prompt, length)]
    if pipeline.tokenizer_3 is None:
        real.append(torch.zeros(T5_TOKENS, dtype=torch.bool))
    else:
        real.append(real_tokens(pipeline.tokenizer_3, prompt, T5_TOKENS))
    cut = [(pipeline.tokenizer, length)]
    cut += [] if pipeline.tokenizer_3 is None else [(pipeline.tokenizer_3, T5_TOKENS)]
    return Condition(tokens[0].cpu(), pooled[0].cpu(), torch.cat(real), words_of(prompt, cut))


FAMILY = ModelFamily(
    name="sd3",
    load=load_sd3,
    help="SD3 and SD3.5, text-to-image, rectified flow",
    checkpoints="stabilityai/stable-diffusion-3-medium-diffusers, stabilityai/stable-diffusion-3.5-medium",
    prompted=True,
    kinds=(*PIPELINES, *NETWORKS),
)
