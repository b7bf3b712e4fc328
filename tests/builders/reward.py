"""ImageReward's networks from other libraries: timm's vision transformer and BERT with cross attention, with the
published names of its file. Random weights."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import BertConfig, BertModel

HEAD = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}
"""Number of each linear layer in the file -> its outputs."""


def networks(vision: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[VisionTransformer, BertModel, nn.Sequential]:
    """Picture encoder, text encoder that attends both ways, and head; sizes as `imagereward.VISION` and `TEXT`."""
    see = VisionTransformer(
        img_size=vision["image_size"], patch_size=vision["patch_size"], embed_dim=vision["hidden_size"],
        depth=vision["num_hidden_layers"], num_heads=vision["num_attention_heads"],
        mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
        num_classes=0, global_pool="", qkv_bias=True,
    ).eval()  # fmt: skip
    read = BertModel(BertConfig(**{**text, "is_decoder": True}, add_cross_attention=True), add_pooling_layer=False)
    for layer in read.encoder.layer:  # BERT expects what it attends to in its own width
        attention = layer.crossattention.self
        attention.key, attention.value = (nn.Linear(vision["hidden_size"], text["hidden_size"]) for _ in range(2))
    read.config.is_decoder = False
    nn.init.zeros_(read.embeddings.token_type_embeddings.weight)  # the published one has no token types
    widths = (text["hidden_size"], *HEAD.values())
    head = nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(widths)))
    return see, read.eval(), head


def published_state(see: VisionTransformer, read: BertModel, head: nn.Sequential) -> dict[str, torch.Tensor]:
    """Their parameters under the names of ImageReward.pt."""
    state = {f"blip.visual_encoder.{name}": value for name, value in see.state_dict().items()}
    state |= {
        f"blip.text_encoder.{name}": value for name, value in read.state_dict().items() if "token_type" not in name
    }
    for number, layer in zip(HEAD, head, strict=True):
        state |= {f"mlp.layers.{number}.{name}": value for name, value in layer.state_dict().items()}
    return state
