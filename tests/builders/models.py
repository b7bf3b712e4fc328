"""Tiny random models of every supported family, and the layouts of their tokens."""

import open_clip
import timm
import torch
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from interventions.layout import TokenLayout


def trained_looking(model, scale=3.0):
    """Random weights large enough that attention is far from uniform and no output is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
            noise = torch.randn(parameter.shape, generator=generator)
            gain = scale if any(part in name for part in ("to_q", "to_k", "add_q", "add_k", "qkv", "in_proj")) else 1.0
            if parameter.dim() > 1:
                parameter.copy_(noise * gain / fan_in**0.5)
            elif not name.endswith("weight"):
                parameter.copy_(0.1 * noise)
    return model.eval()


def dit(layers=2):
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        sample_size=6,
        patch_size=1,
        num_embeds_ada_norm=10,
    )
    return trained_looking(model), TokenLayout((6, 6))


def dit_inputs(batch=2):
    generator = torch.Generator().manual_seed(2)
    return {
        "hidden_states": torch.randn(batch, 4, 6, 6, generator=generator),
        "timestep": torch.full((batch,), 300),
        "class_labels": torch.arange(batch) % 10,
    }


def sd3(dual=False, layers=3):
    model = SD3Transformer2DModel(
        sample_size=6,
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=6,
        dual_attention_layers=(0, 1) if dual else (),
        qk_norm="rms_norm" if dual else None,
    )
    return trained_looking(model), TokenLayout((6, 6), text=7)


def sd3_inputs(batch=2):
    generator = torch.Generator().manual_seed(3)
    return {
        "hidden_states": torch.randn(batch, 4, 6, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
        "pooled_projections": torch.randn(batch, 10, generator=generator),
        "timestep": torch.full((batch,), 300.0),
    }


def sdxl():
    model = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        attention_head_dim=(1, 2),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=12,
        use_linear_projection=True,
    )
    return trained_looking(model), TokenLayout((8, 8), text=7)


def sdxl_inputs(batch=2):
    generator = torch.Generator().manual_seed(4)
    return {
        "sample": torch.randn(batch, 4, 8, 8, generator=generator),
        "timestep": torch.full((batch,), 300),
        "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
    }


def vit(**changes):
    arguments = {
        "img_size": 24,
        "patch_size": 4,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 5,
        **changes,
    }
    model = timm.models.vision_transformer.VisionTransformer(**arguments)
    return trained_looking(model), TokenLayout((6, 6), prefix=model.num_prefix_tokens)


def clip():
    config = {"image_size": 24, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4}
    text = {"context_length": 9, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2}
    return trained_looking(open_clip.CLIP(embed_dim=8, vision_cfg=config, text_cfg=text))


def images(batch=2, size=24):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(5))
