"""Pipelines of the SD3-medium, SD3.5 and SDXL kind with tiny random weights, saved as their hub repositories are."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

TEXT_WIDTH, LETTERS, CLIP_TOKENS = 16, "abcdefghijklmnopqrstuvwxyz", 12


def clip_tokenizer(longest: int = CLIP_TOKENS) -> CLIPTokenizer:
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({piece: i for i, piece in enumerate(pieces)}, [], model_max_length=longest)


def clip_encoder(projected: bool, longest: int = CLIP_TOKENS) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=2 * len(LETTERS) + 2, hidden_size=TEXT_WIDTH, intermediate_size=32, projection_dim=TEXT_WIDTH,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=longest,
        bos_token_id=2 * len(LETTERS), eos_token_id=2 * len(LETTERS) + 1, pad_token_id=2 * len(LETTERS) + 1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5() -> tuple[T5EncoderModel, T5TokenizerFast]:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in LETTERS)]
    config = T5Config(vocab_size=len(vocabulary), d_model=2 * TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval(), T5TokenizerFast(vocabulary, extra_ids=0)


def vae(channels: int, **options) -> AutoencoderKL:
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(8, 8), in_channels=3, out_channels=3, latent_channels=channels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **options,
    ).eval()  # fmt: skip


def sd3_transformer(modern: bool) -> SD3Transformer2DModel:
    """`modern`: as SD3.5, with query/key norm and a second, image-only attention in the first block."""
    torch.manual_seed(1)
    extra = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if modern else {}
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=2 * TEXT_WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT_WIDTH, pos_embed_max_size=8, **extra,
    )  # fmt: skip
    return model.eval()


def save_sd3(folder: Path, *, modern: bool = False, with_t5: bool = True) -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    third, tokenizer_3 = t5() if with_t5 else (None, None)
    pipeline = StableDiffusion3Pipeline(
        transformer=sd3_transformer(modern),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, scaling_factor=1.5, shift_factor=0.1),
        text_encoder=clip_encoder(True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=third, tokenizer_3=tokenizer_3,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return pipeline


def unet() -> UNet2DConditionModel:
    torch.manual_seed(2)
    model = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        cross_attention_dim=2 * TEXT_WIDTH, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + TEXT_WIDTH,
    )  # fmt: skip
    return model.eval()


def save_sdxl(folder: Path, **scheduler) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    options = {**betas, "set_alpha_to_one": False, "clip_sample": False, "timestep_spacing": "leading", **scheduler}
    pipeline = StableDiffusionXLPipeline(
        unet=unet(), scheduler=DDIMScheduler(**options), vae=vae(4, force_upcast=True),
        text_encoder=clip_encoder(False), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(True), tokenizer_2=clip_tokenizer(),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return pipeline
