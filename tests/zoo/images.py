"""Image transformers. Latents are 8 high and 12 wide (16 x 24 pixels) unless said otherwise: 4 x 6 patches."""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import PROMPTS, STEPS, Known, entry
from tests.zoo.text import CLIP, T5, WIDTH, bert, clip, gemma2, glm, t5, umt5
from tests.zoo.weights import seeded

STATE = (1, 4, 8, 12)
GRID = (1, 4, 6)
PATCHES = 24


def autoencoder(channels: int, seed: int = 3, levels: int = 2, **options: Any) -> Any:
    """An autoencoder that makes height and width 2^(levels - 1) times smaller."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8,) * levels, in_channels=3, out_channels=3, latent_channels=channels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **options,
    )  # fmt: skip
    return seeded(vae, seed)


def call(**options: Any) -> dict[str, Any]:
    """Arguments of a call with two prompts."""
    return {"prompt": list(PROMPTS), "height": 16, "width": 24, "num_inference_steps": STEPS, **options}


def picture(height: int, width: int) -> Any:
    """A picture to start from: colours that run across it."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([8 * x, 8 * y, 4 * (x + y)], axis=-1).astype(np.uint8))


DIT = Known(state=(1, 4, 8, 8), grid=(1, 4, 4), order=(("image", 16),), attentions=2, conditional=(0, 0, 2))


@entry("dit-ddim", "DiT", DIT, scheduler="DDIMScheduler", clip_sample=False)
@entry("dit-ddpm", "DiT", DIT, scheduler="DDPMScheduler")
def dit(scheduler: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The scheduler steps the doubled batch, and gets no generator: DDPM's noise is the global one."""
    import diffusers

    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, num_embeds_ada_norm=1000, norm_elementwise_affine=False,
    )  # fmt: skip
    pipeline = diffusers.DiTPipeline(
        transformer=seeded(transformer, 1), vae=autoencoder(4), scheduler=getattr(diffusers, scheduler)(**options)
    )
    return pipeline, {"class_labels": [3, 7], "guidance_scale": 4.0, "num_inference_steps": STEPS}


SD3 = {"state": STATE, "grid": GRID, "order": (("image", PATCHES), ("text", CLIP + T5)), "conditional": (0, 1, 2)}
IMAGE_ALONE = {(PATCHES, PATCHES): ((("image", PATCHES),), (("image", PATCHES),))}


@entry("sd3", "SD3", Known(**SD3, attentions=3), modern=False)
@entry("sd3-heun", "SD3", Known(**SD3, attentions=3), modern=False, scheduler="FlowMatchHeunDiscreteScheduler")
@entry("sd35", "SD3.5 (dual attention)", Known(**SD3, attentions=4, calls=IMAGE_ALONE), modern=True)
def sd3(modern: bool, scheduler: str = "FlowMatchEulerDiscreteScheduler") -> tuple[Any, dict[str, Any]]:
    """Heun asks the network twice for every step but the last, so 4 steps are 7 calls of `scheduler.step`."""
    import diffusers

    from tests.builders.tiny_pipelines import sd3_transformer

    (one, read), (two, read_2), (three, read_3) = clip(21, projected=True), clip(22, projected=True), t5()
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=seeded(sd3_transformer(modern), 1), scheduler=getattr(diffusers, scheduler)(shift=3.0),
        vae=autoencoder(4, scaling_factor=1.5, shift_factor=0.1), text_encoder=one, tokenizer=read,
        text_encoder_2=two, tokenizer_2=read_2, text_encoder_3=three, tokenizer_3=read_3,
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.0, max_sequence_length=T5)


CROSS = {"state": STATE, "grid": GRID, "order": (("image", PATCHES),), "conditional": (0, 1, 2)}
PIXART = Known(**CROSS, cross=T5, attentions=4)


@entry("pixart-alpha", "PixArt-alpha", PIXART, sort="PixArtAlphaPipeline")
@entry("pixart-sigma", "PixArt-sigma", PIXART, sort="PixArtSigmaPipeline")
def pixart(sort: str) -> tuple[Any, dict[str, Any]]:
    """Learned variance, dropped by the pipeline; DPM++ multistep; prompts are padded under a mask of their own."""
    import diffusers

    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, cross_attention_dim=16, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    encoder, tokenizer = t5()
    pipeline = getattr(diffusers, sort)(
        transformer=seeded(transformer, 1), scheduler=diffusers.DPMSolverMultistepScheduler(), vae=autoencoder(4),
        text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.5, max_sequence_length=T5, clean_caption=False, use_resolution_binning=False)


@entry("auraflow", "AuraFlow", Known(
    state=STATE, grid=GRID, order=(("prefix", 8), ("text", T5), ("image", PATCHES)), attentions=2,
    conditional=(0, 1, 2),
))  # fmt: skip
def auraflow() -> tuple[Any, dict[str, Any]]:
    """Eight registers stand before the text; one block has weights for text and image, one shares them."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16, out_channels=4,
        pos_embed_max_size=64,
    )  # fmt: skip
    encoder, tokenizer = umt5()
    pipeline = AuraFlowPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73), vae=autoencoder(4),
        text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(guidance_scale=3.5, max_sequence_length=T5)


@entry("hunyuandit", "HunyuanDiT", Known(
    **CROSS, cross=77 + 256, attentions=8, pooled=("time_extra_emb.pooler",),
))  # fmt: skip
def hunyuandit() -> tuple[Any, dict[str, Any]]:
    """DDPM; the lengths of its two texts, 77 and 256, and eight pixels a latent are fixed in the pipeline.

    Learned tokens take the place of padding behind the words; they count as text.
    """
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline

    transformer = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=4, mlp_ratio=2.0, cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH, pooled_projection_dim=16,
    )  # fmt: skip
    (one, read), (two, read_2) = bert(), t5()
    scheduler = DDPMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False)
    pipeline = HunyuanDiTPipeline(
        transformer=seeded(transformer, 1), scheduler=scheduler, vae=autoencoder(4, levels=4),
        text_encoder=one, tokenizer=read, text_encoder_2=two, tokenizer_2=read_2,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipeline, call(height=64, width=96, guidance_scale=4.0, use_resolution_binning=False)


@entry("sana", "SANA (linear attention)", Known(
    state=STATE, grid=(1, 8, 12), order=(("image", 96),), cross=T5, attentions=2, conditional=(0, 1, 2),
    unreachable=("transformer_blocks.0.attn1", "transformer_blocks.1.attn1"),
))  # fmt: skip
def sana() -> tuple[Any, dict[str, Any]]:
    """Self attention is linear, without softmax; one token a latent pixel."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=8, patch_size=1,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4, encoder_layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4,
        encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4, scaling_factor=0.41,
    )  # fmt: skip
    encoder, tokenizer = gemma2()
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = SanaPipeline(
        transformer=seeded(transformer, 1), scheduler=scheduler, vae=seeded(vae, 3), text_encoder=encoder,
        tokenizer=tokenizer,
    )  # fmt: skip
    options = {"clean_caption": False, "use_resolution_binning": False, "complex_human_instruction": None}
    return pipeline, call(height=64, width=96, guidance_scale=4.5, max_sequence_length=T5, **options)


@entry("cogview4", "CogView4", Known(
    state=STATE, grid=GRID, order=(("text", 16), ("image", PATCHES)), attentions=2, asked=2,
))  # fmt: skip
def cogview4() -> tuple[Any, dict[str, Any]]:
    """Text is padded in front to a multiple of 16 tokens; the negative prompt is asked in a call of its own."""
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=4, pos_embed_max_size=64, sample_size=8,
        rope_axes_dim=(64, 64),
    )  # fmt: skip
    encoder, tokenizer = glm()
    pipeline = CogView4Pipeline(
        transformer=seeded(transformer, 1), vae=autoencoder(4, levels=3), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75),
    )  # fmt: skip
    return pipeline, call(height=32, width=48, guidance_scale=4.0)
