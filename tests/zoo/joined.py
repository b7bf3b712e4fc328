"""Image transformers that join a language model's text and the image in one stream."""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import Known, entry
from tests.zoo.images import GRID, PATCHES, STATE, autoencoder, call
from tests.zoo.text import T5, WIDTH, clip, gemma2, llama_heads, qwen3, t5, words
from tests.zoo.weights import seeded


@entry("z-image", "Z-Image", Known(
    state=STATE, grid=GRID, attentions=4, conditional=(0, 0, 2),
    order=(("image", PATCHES), ("padding", 8), ("text", 32)),
    calls={
        (32, 32, "noise_refiner.0.attention"): ((("image", PATCHES), ("padding", 8)),) * 2,
        (32, 32, "context_refiner.0.attention"): ((("text", 32),),) * 2,
    },
))  # fmt: skip
def z_image() -> tuple[Any, dict[str, Any]]:
    """Image and text are padded to a multiple of 32 each, refined alone, then joined; states travel as a list.

    11 of the text's tokens are words; what fills a text up counts as text, here as with CLIP.
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


ALONE = (("image", PATCHES),)


@entry("lumina2", "Lumina2", Known(
    state=STATE, grid=GRID, order=(("text", 11), ("image", PATCHES)), attentions=6, asked=2,
    calls={
        (T5, T5): ((("text", T5),),) * 2, (PATCHES, PATCHES): (ALONE,) * 2,
        (1 + PATCHES,) * 2: ((("text", 1), ("image", PATCHES)),) * 2,
    },
))  # fmt: skip
def lumina2() -> tuple[Any, dict[str, Any]]:
    """Text and image are refined alone, then joined without the padding: 11 tokens of the prompt, 1 of the negative.

    Eight pixels a latent are fixed in the pipeline; guidance is scaled back to the prompt's norm.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=2,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(64, 16, 16),
        cap_feat_dim=WIDTH,
    )  # fmt: skip
    encoder, tokenizer = gemma2()
    pipeline = Lumina2Pipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(4, scaling_factor=0.4, shift_factor=0.1), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    options = {"system_prompt": "describe the image", "max_sequence_length": T5}
    return pipeline, call(height=64, width=96, guidance_scale=4.0, **options)


@entry("omnigen", "OmniGen", Known(
    state=STATE, grid=GRID, order=(("text", 107), ("prefix", 1), ("image", PATCHES)), attentions=2,
    conditional=(0, 0, 2),
))  # fmt: skip
def omnigen() -> tuple[Any, dict[str, Any]]:
    """No text encoder: the denoiser reads words itself, then a token of the timestep, then the image.

    Text is causal and filled up in front to the length of the pipeline's own negative prompt; 16 pixels are a token.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel

    transformer = OmniGenTransformer2DModel(
        in_channels=4, patch_size=2, hidden_size=32, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, num_layers=2, pad_token_id=0, vocab_size=64, max_position_embeddings=256,
        original_max_position_embeddings=256, pos_embed_max_size=32, time_step_dim=16,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    )  # fmt: skip
    pipeline = OmniGenPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=autoencoder(4, levels=4), tokenizer=words(),
    )  # fmt: skip
    return pipeline, call(height=64, width=96, guidance_scale=2.5)


@entry("hidream", "HiDream", Known(
    state=(1, 4, 4, 16), grid=(1, 2, 8), order=(("image", 16), ("padding", 8), ("text", 3 * T5)), attentions=3,
    conditional=(0, 1, 2),
))  # fmt: skip
def hidream() -> tuple[Any, dict[str, Any]]:
    """Text three times over: T5, the language model's last layer, and its layer that belongs to the block.

    The pipeline brings every size to one area, and fills an image up that is not square with keys of zero: here 16
    patches to 24. The query norm is over all heads, and the feed-forward layers choose experts.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, HiDreamImagePipeline, HiDreamImageTransformer2DModel

    transformer = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=WIDTH, num_routed_experts=2,
        num_activated_experts=2, axes_dims_rope=(4, 4, 8), max_resolution=(8, 12), llama_layers=[0, 1, 2],
        force_inference_output=True,
    )  # fmt: skip
    (one, read), (two, read_2), (three, read_3) = (
        clip(21, projected=True, longest=T5),
        clip(22, projected=True, longest=T5),
        t5(),
    )
    four, read_4 = llama_heads()
    pipeline = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder(4, scaling_factor=0.4, shift_factor=0.1),
        text_encoder=one, tokenizer=read, text_encoder_2=two, tokenizer_2=read_2, text_encoder_3=three,
        tokenizer_3=read_3, text_encoder_4=four, tokenizer_4=read_4, transformer=seeded(transformer, 1),
    )  # fmt: skip
    pipeline.default_sample_size = 8
    return pipeline, call(height=8, width=32, guidance_scale=4.0, max_sequence_length=T5)
