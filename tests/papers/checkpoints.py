"""SD3-medium, SDXL base and DiT-XL/2 at 256 px: folders as their hub repositories are, with as many blocks and tokens.

Every block, head of the text and token is there; what is tiny is the width, the number of heads and the VAE.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from timm.data import ImageNetInfo

from tests.builders.models import trained_looking
from tests.builders.tiny_pipelines import TEXT_WIDTH, clip_encoder, clip_tokenizer, t5, vae
from tests.zoo import ZOO

CLIP_TOKENS = 77
SD3_BLOCKS, DIT_BLOCKS = 24, 28
SIDE, SD3_SIDE = 16, 10
"""Image tokens on a side: of DiT-XL/2 at 256 px as many; SDXL's mid block has 32 at 1024 px, SD3-medium 64. With fewer
than 10 there would be no 50 keys beside 50 sinks."""
SDXL_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def sd3_medium(folder: Path, *, blocks: int = SD3_BLOCKS) -> Path:
    """stabilityai/stable-diffusion-3-medium-diffusers: 24 joint blocks, 77 + 256 text tokens, all three encoders."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=2 * SD3_SIDE, patch_size=2, in_channels=4, out_channels=4, num_layers=blocks, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=2 * TEXT_WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT_WIDTH, pos_embed_max_size=SD3_SIDE,
    )  # fmt: skip
    third, tokenizer_3 = t5()
    StableDiffusion3Pipeline(
        transformer=trained_looking(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_encoder(True, CLIP_TOKENS), tokenizer=clip_tokenizer(CLIP_TOKENS),
        text_encoder_2=clip_encoder(True, CLIP_TOKENS), tokenizer_2=clip_tokenizer(CLIP_TOKENS),
        text_encoder_3=third, tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def sdxl_base(folder: Path) -> Path:
    """stabilityai/stable-diffusion-xl-base-1.0: a mid block with self attention and 77 text tokens to attend to."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=2 * SIDE, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        cross_attention_dim=2 * TEXT_WIDTH, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + TEXT_WIDTH,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        unet=trained_looking(unet),
        scheduler=EulerDiscreteScheduler(**SDXL_BETAS, timestep_spacing="leading"),
        vae=vae(4, force_upcast=True, scaling_factor=0.13025),
        text_encoder=clip_encoder(False, CLIP_TOKENS), tokenizer=clip_tokenizer(CLIP_TOKENS),
        text_encoder_2=clip_encoder(True, CLIP_TOKENS), tokenizer_2=clip_tokenizer(CLIP_TOKENS),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def dit_xl2(folder: Path, *, blocks: int = DIT_BLOCKS) -> Path:
    """facebook/DiT-XL-2-256: 28 blocks, 16 x 16 tokens, 1000 classes and a null class, weights as `.bin`."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=blocks,
        sample_size=2 * SIDE, patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    decoder = vae(4, scaling_factor=0.18215)
    trained_looking(transformer).save_pretrained(folder / "transformer", safe_serialization=False)
    decoder.save_pretrained(folder / "vae", safe_serialization=False)
    DDIMScheduler(clip_sample=False, set_alpha_to_one=True).save_pretrained(folder / "scheduler")
    _as_written_in_2022(folder / "transformer" / "config.json")
    names = dict(enumerate(ImageNetInfo().label_descriptions()))
    parts = {"scheduler": "DDIMScheduler", "transformer": "Transformer2DModel", "vae": "AutoencoderKL"}
    index = {"_class_name": "DiTPipeline", "_diffusers_version": "0.12.0.dev0", "id2label": names}
    index |= {name: ["diffusers", kind] for name, kind in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def of_the_zoo(name: str, folder: Path) -> Path:
    """One of the tiny pipelines that stand for families of diffusers (`tests.zoo`), as a folder."""
    pipe, _ = ZOO[name].make()
    pipe.save_pretrained(folder)
    return folder


def _as_written_in_2022(config: Path) -> None:
    """The class was called Transformer2DModel then, and its configuration had keys that DiT's own class does not."""
    old = {"cross_attention_dim": None, "num_vector_embeds": None, "only_cross_attention": False}
    old |= {"use_linear_projection": False, "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0"}
    config.write_text(json.dumps(json.loads(config.read_text()) | old))
