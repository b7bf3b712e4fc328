"""Image transformers. Latents are 8 high and 12 wide (16 x 24 pixels) unless said otherwise: 4 x 6 patches."""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import PROMPTS, STEPS, Known, entry
from tests.zoo.text import CLIP, T5, WIDTH, clip, qwen3, qwen_vl, t5
from tests.zoo.weights import seeded

STATE = (1, 4, 8, 12)
GRID = (1, 4, 6)
PATCHES = 24
TEXT_FIRST_FLUX = (("text", T5), ("image", PATCHES))


def autoencoder(channels: int, seed: int = 3, **options: Any) -> Any:
    """An autoencoder that halves height and width."""
    from tests.builders.tiny_pipelines import vae

    return seeded(vae(channels, **options), seed)


def call(**options: Any) -> dict[str, Any]:
    """Arguments of a call with two prompts."""
    return {"prompt": list(PROMPTS), "height": 16, "width": 24, "num_inference_steps": STEPS, **options}


DIT = Known(state=(1, 4, 8, 8), grid=(1, 4, 4), order=(("image", 16),), attentions=2, conditional=(0, 0, 2))


@entry("dit-ddim", "DiT", DIT, scheduler="DDIMScheduler")
@entry("dit-ddpm", "DiT", DIT, scheduler="DDPMScheduler")
def dit(scheduler: str) -> tuple[Any, dict[str, Any]]:
    """The scheduler steps the doubled batch, and gets no generator: DDPM's noise is the global one."""
    import diffusers

    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, num_embeds_ada_norm=1000, norm_elementwise_affine=False,
    )  # fmt: skip
    pipeline = diffusers.DiTPipeline(
        transformer=seeded(transformer, 1), vae=autoencoder(4), scheduler=getattr(diffusers, scheduler)()
    )
    return pipeline, {"class_labels": [3, 7], "guidance_scale": 4.0, "num_inference_steps": STEPS}


@entry(
    "sd3",
    "SD3",
    Known(
        state=STATE,
        grid=GRID,
        order=(("image", PATCHES), ("text", CLIP + T5)),
        attentions=3,
        conditional=(0, 1, 2),
    ),
    modern=False,
)
@entry("sd35", "SD3.5 (dual attention)", Known(
    state=STATE, grid=GRID, order=(("image", PATCHES), ("text", CLIP + T5)), attentions=4, conditional=(0, 1, 2),
    calls={(PATCHES, PATCHES): ((("image", PATCHES),),) * 2},
), modern=True)  # fmt: skip
def sd3(modern: bool) -> tuple[Any, dict[str, Any]]:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    from tests.builders.tiny_pipelines import sd3_transformer

    (one, read), (two, read_2), (three, read_3) = clip(21, projected=True), clip(22, projected=True), t5()
    pipeline = StableDiffusion3Pipeline(
        transformer=seeded(sd3_transformer(modern), 1), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(4, scaling_factor=1.5, shift_factor=0.1), text_encoder=one, tokenizer=read,
        text_encoder_2=two, tokenizer_2=read_2, text_encoder_3=three, tokenizer_3=read_3,
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.0, max_sequence_length=T5)


@entry("pixart-alpha", "PixArt-alpha", Known(
    state=STATE, grid=GRID, order=(("image", PATCHES),), cross=T5, attentions=4, conditional=(0, 1, 2),
))  # fmt: skip
def pixart_alpha() -> tuple[Any, dict[str, Any]]:
    """Learned variance, dropped by the pipeline; DPM++ multistep; prompts are padded under a mask of their own."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    encoder, tokenizer = t5()
    pipeline = PixArtAlphaPipeline(
        transformer=pixart_transformer(), scheduler=DPMSolverMultistepScheduler(), vae=autoencoder(4),
        text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.5, max_sequence_length=T5, clean_caption=False, use_resolution_binning=False)


def pixart_transformer() -> Any:
    from diffusers import PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, cross_attention_dim=16, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    return seeded(transformer, 1)


FLUX = {"state": STATE, "grid": GRID, "order": TEXT_FIRST_FLUX, "attentions": 4}


@entry("flux1", "FLUX.1 (guidance embedded)", Known(**FLUX), guided=False)
@entry("flux1-cfg", "FLUX.1 with true CFG", Known(**FLUX, asked=2), guided=True)
def flux1(guided: bool) -> tuple[Any, dict[str, Any]]:
    """Two blocks in which text and image have weights of their own, two in which both share them."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH // 2, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    (one, read), (two, read_2) = clip(), t5()
    pipeline = FluxPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(4, scaling_factor=0.4, shift_factor=0.1), text_encoder=one, tokenizer=read,
        text_encoder_2=two, tokenizer_2=read_2,
    )  # fmt: skip
    extra = {"negative_prompt": ["", ""], "true_cfg_scale": 3.0} if guided else {}
    return pipeline, call(guidance_scale=3.5, max_sequence_length=T5, **extra)


@entry("qwen-image", "Qwen-Image", Known(
    state=STATE, grid=GRID, order=(("text", 8), ("image", PATCHES)), attentions=2, asked=2,
    calls={(5 + PATCHES,) * 2: ((("text", 5), ("image", PATCHES)),) * 2},
))  # fmt: skip
def qwen_image() -> tuple[Any, dict[str, Any]]:
    """The negative prompt is shorter, and asked in a call of its own; guidance is scaled back to the prompt's norm.

    The chat around a prompt loses its first 34 tokens; of "a red cat" 8 are left, of "" 5.
    """
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[-0.3, 0.1, 0.2, 0.0], latents_std=[1.5, 0.8, 1.0, 1.2],
    )  # fmt: skip
    encoder, tokenizer = qwen_vl()
    pipeline = QwenImagePipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=seeded(vae, 3), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(negative_prompt=["", ""], true_cfg_scale=4.0)


@entry("z-image", "Z-Image", Known(
    state=STATE, grid=GRID, attentions=4, conditional=(0, 0, 2),
    order=(("image", PATCHES), ("padding", 8), ("text", 11), ("padding", 21)),
    calls={(32, 32): ((("image", PATCHES), ("padding", 8)),) * 2},
))  # fmt: skip
def z_image() -> tuple[Any, dict[str, Any]]:
    """Image and text are padded to a multiple of 32 each, refined alone, then joined; states travel as a list.

    The call shape (32, 32) is both refiners': image with padding, and text with padding.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[128, 16, 16],
    )  # fmt: skip
    encoder, tokenizer = qwen3()
    pipeline = ZImagePipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(4, scaling_factor=0.4, shift_factor=0.1), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(guidance_scale=3.0, max_sequence_length=24)
