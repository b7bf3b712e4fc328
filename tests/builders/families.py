"""Tiny random models of families whose attention is found, called or computed in other ways than DiT's."""

import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    WanTransformer3DModel,
)

from interventions.layout import Segment, TokenLayout
from tests.builders.models import trained_looking

WAN_TEXT = 512  # tokens, written into the processor of Wan's cross attention


def flux():
    """Two blocks with joint attention, then one that is parallel: text first in all of them."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    )
    return trained_looking(model), TokenLayout.of(Segment("text", 5), Segment("image", grid=(3, 4)))


def flux_inputs(batch=2):
    generator = torch.Generator().manual_seed(6)
    image = torch.cat([torch.zeros(12, 1), torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))], dim=1)
    return {
        "hidden_states": torch.randn(batch, 12, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 5, 8, generator=generator),
        "pooled_projections": torch.randn(batch, 8, generator=generator),
        "timestep": torch.full((batch,), 0.3),
        "img_ids": image,
        "txt_ids": torch.zeros(5, 3),
    }


def cogvideox():
    """A video of 3 frames after its text, in every block."""
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=8,
        num_layers=2,
        sample_width=4,
        sample_height=2,
        sample_frames=9,
        patch_size=1,
        max_text_seq_length=4,
    )
    return trained_looking(model), TokenLayout.of(Segment("text", 4), Segment("image", grid=(3, 2, 4)))


def cogvideox_inputs(batch=2):
    generator = torch.Generator().manual_seed(9)
    return {
        "hidden_states": torch.randn(batch, 3, 4, 2, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 4, 8, generator=generator),
        "timestep": torch.full((batch,), 300),
    }


def wan(image_keys=True):
    """Image-to-video: the cross attention of a block makes two calls, on the keys of an image and of the text."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=2,
        image_dim=8 if image_keys else None,
        added_kv_proj_dim=24 if image_keys else None,
        rope_max_seq_len=32,
    )
    return trained_looking(model), TokenLayout((2, 3), text=WAN_TEXT)


def wan_inputs(batch=2, image_keys=WAN_TEXT):
    generator = torch.Generator().manual_seed(7)
    inputs = {
        "hidden_states": torch.randn(batch, 4, 1, 4, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, WAN_TEXT, 8, generator=generator),
        "timestep": torch.full((batch,), 300),
    }
    if image_keys:
        inputs["encoder_hidden_states_image"] = torch.randn(batch, image_keys, 8, generator=generator)
    return inputs


def sana():
    """Self attention that is linear, which no call of softmax attention computes, beside a cross attention that is."""
    model = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        sample_size=6,
    )
    return trained_looking(model), TokenLayout((4, 6), text=7)


def sana_inputs(batch=2):
    generator = torch.Generator().manual_seed(8)
    return {
        "hidden_states": torch.randn(batch, 4, 4, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 8, generator=generator),
        "timestep": torch.full((batch,), 300),
    }
