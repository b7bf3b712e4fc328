"""Video transformers. Latents have 3 frames of 8 x 12 (9 pictures of 32 x 48 pixels): 3 x 4 x 6 patches."""

from __future__ import annotations

from typing import Any

from tests.zoo.entry import PROMPTS, STEPS, Known, entry
from tests.zoo.text import T5, WIDTH, t5, umt5
from tests.zoo.weights import seeded

GRID = (3, 4, 6)
PATCHES = 72


def call(**options: Any) -> dict[str, Any]:
    """Arguments of a call with two prompts; the video comes back as an array."""
    sizes = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": STEPS}
    return {"prompt": list(PROMPTS), **sizes, "max_sequence_length": T5, "output_type": "np", **options}


COGVIDEOX = Known(
    state=(3, 4, 8, 12), grid=GRID, order=(("text", T5), ("image", PATCHES)), attentions=2, conditional=(0, 1, 2)
)


@entry("cogvideox-ddim", "CogVideoX", COGVIDEOX, scheduler="CogVideoXDDIMScheduler")
@entry("cogvideox-dpm", "CogVideoX", COGVIDEOX, scheduler="CogVideoXDPMScheduler")
def cogvideox(scheduler: str) -> tuple[Any, dict[str, Any]]:
    """The state is [sample, frame, channel, y, x]; the DPM scheduler keeps its history in the pipeline's variables."""
    import diffusers

    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=WIDTH, num_layers=2, sample_width=12, sample_height=8, sample_frames=9, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=T5, use_rotary_positional_embeddings=True,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4, sample_height=32, sample_width=48,
    )  # fmt: skip
    encoder, tokenizer = t5()
    pipeline = diffusers.CogVideoXPipeline(
        transformer=seeded(transformer, 1), vae=seeded(vae, 3), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=getattr(diffusers, scheduler)(prediction_type="v_prediction"),
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.0)


def wan_transformer(seed: int = 1, channels: int = 4, **options: Any) -> Any:
    from diffusers import WanTransformer3DModel

    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels, out_channels=4,
        text_dim=WIDTH, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32, **options,
    )  # fmt: skip
    return seeded(transformer, seed)


def wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[True, True],
        latents_mean=[-0.3, 0.1, 0.2, 0.0], latents_std=[1.5, 0.8, 1.0, 1.2],
        scale_factor_temporal=4, scale_factor_spatial=4,
    )  # fmt: skip
    return seeded(vae, 3)


@entry("wan21", "Wan 2.1", Known(
    state=(3, 4, 8, 12), grid=GRID, order=(("image", PATCHES),), cross=T5, attentions=4, asked=2,
))  # fmt: skip
def wan21() -> tuple[Any, dict[str, Any]]:
    """The prompt and the negative prompt are asked in calls of their own; UniPC with flow sigmas."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    encoder, tokenizer = umt5()
    pipeline = WanPipeline(
        transformer=wan_transformer(), vae=wan_vae(), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.0)
