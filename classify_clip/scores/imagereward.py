"""ImageReward: BLIP's image encoder, its text encoder reading the picture by cross attention, and a linear head.

The published package no longer runs; the same computation is put together here from transformers' BLIP. Torch and
transformers are imported when it is loaded. Source: Xu et al. 2023, "ImageReward".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classify_clip.scores.metric import Metric, Weights, without_prompts
from classify_clip.scores.networks import once
from classify_clip.scores.pictures import Pictures
from classify_clip.scores.weights import ScoreError, Source, loading, locate

WORDS = Source("imagereward", "vocab.txt", "google-bert/bert-base-uncased", megabytes=0.2)
SOURCE = Source("imagereward", "ImageReward.pt", "THUDM/ImageReward", megabytes=1790, beside=WORDS)
BATCH = 16
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw reward, as published with the weights."""
LENGTH = 35  # prompt tokens
VISION = {
    "image_size": 224, "patch_size": 16, "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip
TEXT = {
    "vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "encoder_hidden_size": 1024, "max_position_embeddings": 512, "is_decoder": True,
}  # fmt: skip
_RENAMED = (
    (r"^blocks\.", "encoder.layers."), (r"\.attn\.proj\.", ".self_attn.projection."), (r"\.attn\.", ".self_attn."),
    (r"\.norm1\.", ".layer_norm1."), (r"\.norm2\.", ".layer_norm2."), (r"^norm\.", "post_layernorm."),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."), (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^cls_token$", "embeddings.class_embedding"),
)  # fmt: skip


@dataclass(frozen=True)
class Reward:
    """The three networks in eval mode."""

    vision: Any
    text: Any
    head: Any

    def __call__(self, pixels: Any, tokens: Any, attention: Any) -> Any:
        """Rewards [n] of pixels [n, 3, 224, 224] (CLIP-normalised) for token ids and attention [n, 35]."""
        seen = self.vision(pixels).last_hidden_state
        read = self.text(
            input_ids=tokens, attention_mask=attention, encoder_hidden_states=seen,
            encoder_attention_mask=attention.new_ones(seen.shape[:2]), is_decoder=False,
        ).last_hidden_state[:, 0]  # fmt: skip
        return (self.head(read)[:, 0] - MEAN) / STD


def open_imagereward(pictures: Pictures, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """images -> reward [n] for their prompts."""
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    path = locate(SOURCE, weights)
    reward = load(path, pictures.device)
    where = next(reward.head.parameters()).device
    tokens = _tokens(pictures.prompts or (), path.parent)
    transform = v2.Compose([
        v2.Resize(224, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(224),  # of the PIL image
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    ])  # fmt: skip

    def measure(images: np.ndarray) -> np.ndarray:
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                rows = slice(start, start + BATCH)
                pixels = torch.stack([transform(Image.fromarray(image)) for image in images[rows]])
                words = [tokens[name][rows].to(where) for name in ("input_ids", "attention_mask")]
                parts.append(reward(pixels.to(where), *words).cpu())
        return torch.cat(parts).double().numpy()

    return measure


@once
def load(path: Path, device: str | None = None) -> Reward:
    """The networks from the published file. Raises ScoreError when it does not fit."""
    import torch

    from tracer.denoisers import usable_device

    where = usable_device(device)
    with loading(SOURCE, path):
        reward = build(torch.load(path, map_location="cpu", weights_only=True))
    for network in (reward.vision, reward.text, reward.head):
        network.to(where)
    return reward


def build(state: Mapping[str, Any], vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT) -> Reward:
    """The networks from a state dict under the published names. Raises RuntimeError when it does not fit."""
    from torch import nn
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    seeing = BlipVisionModel(BlipVisionConfig(**vision)).eval()
    reading = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False).eval()
    widths = (int(text["hidden_size"]), 1024, 128, 64, 16, 1)
    # Without activations, as published; the numbers leave room for its dropout layers.
    head = nn.ModuleDict({str(at): nn.Linear(widths[k], widths[k + 1]) for k, at in enumerate((0, 2, 4, 6, 7))}).eval()
    _fill(seeing, {_vision_name(name): value for name, value in _under(state, "blip.visual_encoder.").items()})
    _fill(reading, _under(state, "blip.text_encoder."))
    head.load_state_dict(_under(state, "mlp.layers."))
    return Reward(seeing, reading, nn.Sequential(*head.values()))


def _under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _vision_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _fill(model: Any, state: dict[str, Any]) -> None:
    """Load every parameter; index buffers that older versions kept may be left over or missing, nothing else."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    if wrong := [
        name for name in (*missing, *unexpected) if not name.endswith("position_ids") and "pooler" not in name
    ]:
        raise RuntimeError(f"{type(model).__name__} and the file differ in {', '.join(wrong[:4])}")


def _tokens(prompts: tuple[str, ...], folder: Path) -> Any:
    """Token ids and attention [n, 35] by BERT's vocabulary, beside the weights or from the hub."""
    from transformers import BertTokenizer

    try:
        words = locate(WORDS, {"imagereward": folder} if (folder / WORDS.file).is_file() else {})
    except ScoreError:
        raise ScoreError(
            f"imagereward: put BERT's {WORDS.file} (hub repository {WORDS.repository}) beside the weights in {folder}; "
            "it is not on this machine and cannot be fetched"
        ) from None
    tokenizer = BertTokenizer(str(words), do_lower_case=True)
    return tokenizer(list(prompts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")


IMAGEREWARD = Metric("imagereward", "ImageReward", "score", True, open_imagereward, without_prompts, source=SOURCE)
