"""Video transformers. Latents have 3 frames of 8 x 12 (9 pictures of 32 x 48 pixels): 3 x 4 x 6 patches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.zoo.entry import PROMPTS, STEPS, Known, entry
from tests.zoo.images import picture
from tests.zoo.text import T5, WIDTH, clip, llama, t5, umt5
from tests.zoo.weights import seeded

STATE = (3, 4, 8, 12)
GRID = (3, 4, 6)
PATCHES = 72
ALONE = (("image", PATCHES),)
ALONE_FRAME = (("image", 24),)


def call(**options: Any) -> dict[str, Any]:
    """Arguments of a call with two prompts."""
    sizes = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": STEPS}
    return {"prompt": list(PROMPTS), **sizes, "max_sequence_length": T5, **options}


COGVIDEOX = Known(state=STATE, grid=GRID, order=(("text", T5), ("image", PATCHES)), attentions=2, conditional=(0, 1, 2))


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


def wan_parts() -> dict[str, Any]:
    from diffusers import UniPCMultistepScheduler

    encoder, tokenizer = umt5()
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {"vae": wan_vae(), "text_encoder": encoder, "tokenizer": tokenizer, "scheduler": scheduler}


CROSS = {"state": STATE, "grid": GRID, "order": ALONE}
CROSS_DOUBLED = {**CROSS, "conditional": (0, 1, 2)}
WAN = Known(**CROSS, cross=T5, attentions=4, asked=2)


@entry("wan21", "Wan 2.1", WAN)
def wan21() -> tuple[Any, dict[str, Any]]:
    """The prompt and the negative prompt are asked in calls of their own; UniPC with flow sigmas."""
    from diffusers import WanPipeline

    return WanPipeline(transformer=wan_transformer(), **wan_parts()), call(guidance_scale=4.0)


@entry("wan22", "Wan 2.2 (two transformers)", WAN)
def wan22() -> tuple[Any, dict[str, Any]]:
    """One network for the noisy steps, another for the rest; the first two of four steps are the noisy ones."""
    from diffusers import WanPipeline

    pipeline = WanPipeline(
        transformer=wan_transformer(), transformer_2=wan_transformer(2), boundary_ratio=0.875, **wan_parts()
    )
    return pipeline, call(guidance_scale=4.0, guidance_scale_2=3.0)


@entry("wan21-i2v", "Wan 2.1 image to video", replace(
    WAN, cross=512, attentions=6, several={"blocks.0.attn2": 2, "blocks.1.attn2": 2},
    calls={(PATCHES, 5): (ALONE, (("prefix", 5),))},
))  # fmt: skip
def wan21_i2v() -> tuple[Any, dict[str, Any]]:
    """The cross attention makes two calls: one to the text, one to the 5 tokens of the picture it starts from.

    The text's 512 tokens are fixed in the pipeline. The network sees state, mask and encoded picture: 12 channels.
    """
    from diffusers import WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    sight = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    pipeline = WanImageToVideoPipeline(
        transformer=wan_transformer(channels=12, image_dim=16, added_kv_proj_dim=24), **wan_parts(),
        image_encoder=seeded(CLIPVisionModel(sight), 4),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
    )  # fmt: skip
    return pipeline, call(guidance_scale=4.0, image=picture(32, 48), max_sequence_length=512)


@entry("ltx", "LTX-Video", Known(**CROSS_DOUBLED | {"state": (3, 4, 4, 6)}, cross=T5, attentions=4))
def ltx() -> tuple[Any, dict[str, Any]]:
    """A token for each latent pixel, packed: the scheduler steps [sample, token, channel]; 16 pixels a latent."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    transformer = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        num_layers=2, caption_channels=WIDTH,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 3, layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4,
        spatio_temporal_scaling=(True, True, False), decoder_spatio_temporal_scaling=(True, True, False),
        decoder_inject_noise=(False,) * 4, downsample_type=("conv",) * 3, upsample_residual=(False,) * 3,
        upsample_factor=(1,) * 3, patch_size=4, patch_size_t=1,
    )  # fmt: skip
    encoder, tokenizer = t5()
    pipeline = LTXPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=seeded(vae, 3), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(height=64, width=96, guidance_scale=3.0)


@entry("mochi", "Mochi", Known(
    state=(2, 12, 8, 12), grid=(2, 4, 6), order=(("image", 48), ("text", 11)), attentions=9, conditional=(0, 1, 2),
    calls={
        (1, 1 + T5): ((("prefix", 1),), (("prefix", 1), ("text", T5))),
        (49, 49): ((("image", 48), ("text", 1)),) * 2,
    },
    refused="no attention module that is known",
))  # fmt: skip
def mochi() -> tuple[Any, dict[str, Any]]:
    """Attention is computed sample by sample, each with its own prompt's tokens and without the padding.

    So a module makes 4 calls in a forward: 2 with the negative prompt's 1 token, 2 with the prompts' 11. A call more
    pools the text.
    """
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    transformer = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, text_embed_dim=WIDTH, time_embed_dim=4, max_sequence_length=T5,
    )  # fmt: skip
    vae = AutoencoderKLMochi(
        latent_channels=12, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5, add_attention_block=(False,) * 5,
    )  # fmt: skip
    encoder, tokenizer = t5()
    pipeline = MochiPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=seeded(vae, 3), text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(height=64, width=96, num_frames=7, guidance_scale=4.0)


@entry("allegro", "Allegro", Known(**CROSS_DOUBLED, cross=T5, attentions=4))
def allegro() -> tuple[Any, dict[str, Any]]:
    """Euler ancestral; every latent frame is four pictures."""
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    transformer = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=24, sample_width=12, sample_height=8, sample_frames=3, caption_channels=WIDTH,
    )  # fmt: skip
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8), down_block_types=("AllegroDownBlock3D",) * 3, latent_channels=4,
        up_block_types=("AllegroUpBlock3D",) * 3, layers_per_block=1, norm_num_groups=2, sample_size=16,
        temporal_downsample_blocks=(True, True, False), temporal_upsample_blocks=(False, True, True),
    )  # fmt: skip
    vae.enable_tiling()
    vae.enable_slicing()
    vae.kernel = vae.stride = (12, 32, 48)  # one tile: it decodes no other way, one sample at a time
    encoder, tokenizer = t5()
    pipeline = AllegroPipeline(
        transformer=seeded(transformer, 1), scheduler=EulerAncestralDiscreteScheduler(), vae=seeded(vae, 3),
        text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, call(num_frames=12, guidance_scale=4.0, clean_caption=False)


@entry("latte", "Latte", Known(
    state=STATE, grid=(1, 4, 6), order=ALONE_FRAME, cross=120, attentions=6, conditional=(0, 1, 2),
    calls={(3, 3): ((("image", 3),),) * 2},
))  # fmt: skip
def latte() -> tuple[Any, dict[str, Any]]:
    """Attention within a frame and, in turn, between frames at one place; its batch is larger than the samples."""
    from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

    from tests.zoo.images import autoencoder

    transformer = LatteTransformer3DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=12, num_attention_heads=2,
        caption_channels=WIDTH, in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, video_length=3,
    )  # fmt: skip
    encoder, tokenizer = t5()
    pipeline = LattePipeline(
        transformer=seeded(transformer, 1), scheduler=DDIMScheduler(), vae=autoencoder(4), text_encoder=encoder,
        tokenizer=tokenizer,
    )  # fmt: skip
    arguments = call(height=16, width=24, guidance_scale=4.0, clean_caption=False, decode_chunk_size=3)
    del arguments["num_frames"], arguments["max_sequence_length"]
    return pipeline, arguments | {"video_length": 3}


@entry("hunyuanvideo", "HunyuanVideo", Known(
    state=STATE, grid=GRID, order=(("image", PATCHES), ("text", T5)), attentions=5,
    calls={(T5, T5): ((("text", T5),),) * 2},
))  # fmt: skip
def hunyuanvideo() -> tuple[Any, dict[str, Any]]:
    """Text is refined alone, then stands behind the video, padded under a mask of its own."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        num_single_layers=2, num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=WIDTH,
        pooled_projection_dim=16, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3, up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    (one, read), (two, read_2) = llama(), clip(longest=77)
    pipeline = HunyuanVideoPipeline(
        transformer=seeded(transformer, 1), scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=seeded(vae, 3), text_encoder=one, tokenizer=read, text_encoder_2=two, tokenizer_2=read_2,
    )  # fmt: skip
    template = {"template": "<|im_start|>user\n{}<|im_end|>", "crop_start": 3}
    return pipeline, call(guidance_scale=6.0, prompt_template=template)
