"""Image transformers whose pipeline packs 2 x 2 latents into a token: the scheduler steps [sample, token, channel].

Latents are 8 high and 12 wide (16 x 24 pixels): 4 x 6 tokens.
"""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import Known, entry
from tests.zoo.images import GRID, PATCHES, STATE, autoencoder, call, picture
from tests.zoo.text import T5, WIDTH, clip, mistral3, qwen_vl, t5
from tests.zoo.weights import seeded

TEXT_FIRST = (("text", T5), ("image", PATCHES))

FLUX = {"state": STATE, "grid": GRID, "order": TEXT_FIRST, "attentions": 4}


@entry("flux1", "FLUX.1 (guidance embedded)", Known(**FLUX), guided=False)
@entry("flux1-cfg", "FLUX.1 with true CFG", Known(**FLUX, asked=2), guided=True)
def flux1(guided: bool) -> tuple[Any, dict[str, Any]]:
    from diffusers import FluxPipeline

    extra = {"negative_prompt": ["", ""], "true_cfg_scale": 3.0} if guided else {}
    return FluxPipeline(**flux1_parts()), call(guidance_scale=3.5, max_sequence_length=T5, **extra)


@entry("flux1-img2img", "FLUX.1 image to image", Known(**FLUX))
def flux1_img2img() -> tuple[Any, dict[str, Any]]:
    """Starts from a noised picture: 3 of 4 steps are run."""
    from diffusers import FluxImg2ImgPipeline

    options = {"image": picture(16, 24), "strength": 0.75}
    return FluxImg2ImgPipeline(**flux1_parts()), call(guidance_scale=3.5, max_sequence_length=T5, **options)


def flux1_parts() -> dict[str, Any]:
    """Two blocks in which text and image have weights of their own, two in which both share them."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH // 2, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    (one, read), (two, read_2) = clip(), t5()
    return {
        "transformer": seeded(transformer, 1), "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": autoencoder(4, scaling_factor=0.4, shift_factor=0.1), "text_encoder": one, "tokenizer": read,
        "text_encoder_2": two, "tokenizer_2": read_2,
    }  # fmt: skip


@entry("flux2", "FLUX.2", Known(**FLUX | {"order": (("text", 40), ("image", PATCHES)), "attentions": 4}))
def flux2() -> tuple[Any, dict[str, Any]]:
    """Text from three layers of a language model; latents are scaled by a batch norm of the decoder."""
    import torch
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Pipeline, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    encoder, tokenizer = mistral3()
    pipeline = Flux2Pipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=seeded(vae, 3), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.0, max_sequence_length=40, text_encoder_out_layers=(0, 1, 2))


@entry("chroma", "Chroma", Known(**FLUX, asked=2))
def chroma() -> tuple[Any, dict[str, Any]]:
    """FLUX without guidance embedding: true guidance in two calls, and prompts padded under a mask of their own."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    encoder, tokenizer = t5()
    pipeline = ChromaPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(4, scaling_factor=0.4, shift_factor=0.1), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(negative_prompt=["", ""], guidance_scale=3.0, max_sequence_length=T5)


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
