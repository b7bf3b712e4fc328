"""Image transformers that join a language model's text and the image in one stream."""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import Known, entry
from tests.zoo.images import GRID, PATCHES, STATE, autoencoder, call
from tests.zoo.text import T5, WIDTH, gemma2, qwen3
from tests.zoo.weights import seeded


@entry("z-image", "Z-Image", Known(
    state=STATE, grid=GRID, attentions=4, conditional=(0, 0, 2),
    order=(("image", PATCHES), ("padding", 8), ("text", 11), ("padding", 21)),
    calls={
        (32, 32, "noise_refiner.0.attention"): ((("image", PATCHES), ("padding", 8)),) * 2,
        (32, 32, "context_refiner.0.attention"): ((("text", 11), ("padding", 21)),) * 2,
    },
))  # fmt: skip
def z_image() -> tuple[Any, dict[str, Any]]:
    """Image and text are padded to a multiple of 32 each, refined alone, then joined; states travel as a list."""
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
