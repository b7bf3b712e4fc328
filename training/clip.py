"""Train the embedded CLIP: open_clip's own model on emoji and their names, with the contrastive loss of Radford et al.

The image tower has the grid, width, depth and heads of the embedded ViT and DiT and a class token as in ViT-B/32; the
text tower reads words (`tracer.denoisers.embedded.words`) under its causal mask. Weights and configuration are written
in open_clip's local format: `open_clip.create_model("local-dir:FOLDER")`.

    python -m training.clip --data emoji32.npz --out clip --minutes 12
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from tracer.denoisers.embedded.words import CONTEXT, END, tokenize
from training.common import Emoji, ExplicitAttention, flip, load, vocabulary
from training.networks import HELD_OUT, CpuTrainer, add_budget, jitter, rounded, save_half

GRID, WIDTH, HEADS = 16, 128, 4


def architecture(words: int) -> dict:
    """open_clip's `model_cfg`."""
    vision = {"image_size": 2 * GRID, "patch_size": 2, "width": WIDTH, "layers": 6, "head_width": WIDTH // HEADS}
    text = {"context_length": CONTEXT, "vocab_size": words, "width": WIDTH, "heads": HEADS, "layers": 3}
    return {
        "embed_dim": WIDTH,
        "vision_cfg": vision | {"pool_type": "tok"},
        "text_cfg": text | {"pool_type": "eos", "eos_id": END},
    }


def make_explicit(block: Any) -> None:
    """Let a block's attention call `scaled_dot_product_attention`, so that `ExplicitAttention` can replace it."""
    attention = block.attn

    def attend(q_x, k_x=None, v_x=None, attn_mask=None):
        projected = F.linear(q_x, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))

    block.attention = attend


def make_scalable(visual: Any) -> None:
    """Let the image tower see half-size images: its position grid is averaged 2 x 2."""

    def embeds(images: torch.Tensor) -> torch.Tensor:
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        position = visual.positional_embedding
        if patches.shape[1] < GRID * GRID:
            grid = position[1:].T.reshape(1, -1, GRID, GRID)
            position = torch.cat([position[:1], F.avg_pool2d(grid, 2).flatten(2)[0].T])
        token = visual.class_embedding.expand(len(patches), 1, -1).to(patches.dtype)
        return visual.ln_pre(torch.cat([token, patches], 1) + position)

    visual._embeds = embeds


def make_trainable(model: Any) -> None:
    """Swap in what makes training fast on a CPU; the shipped model is the untouched average."""
    for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
        make_explicit(block)
    make_scalable(model.visual)


def batches(data: Emoji, rows: torch.Tensor, size: int):
    """Endless batches of row indices, each with `size` different concepts, drawings of a concept equally likely."""
    by_concept: dict[str, list[int]] = {}
    for row in rows.tolist():
        by_concept.setdefault(data.concept[row], []).append(row)
    drawings = list(by_concept.values())
    while True:
        chosen = np.random.choice(len(drawings), size, replace=False)
        yield torch.tensor([drawings[k][np.random.randint(len(drawings[k]))] for k in chosen])


@torch.no_grad()
def recall(model: open_clip.CLIP, data: Emoji, rows: torch.Tensor, known: dict[str, int]) -> dict[str, float]:
    """R@1 both ways over the whole split: every drawing against every different name."""
    names, inverse = np.unique(data.caption[rows], return_inverse=True)
    which = torch.from_numpy(inverse)
    image = torch.cat([model.encode_image(data.images(part), normalize=True) for part in rows.split(100)])
    text = model.encode_text(tokenize(names, known), normalize=True)
    similarity = image @ text.T
    to_text = (similarity.argmax(1) == which).float().mean()
    to_image = (which[similarity.argmax(0)] == torch.arange(len(names))).float().mean()
    return {"image-to-text": round(to_text.item(), 4), "text-to-image": round(to_image.item(), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    add_budget(parser, 12)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    torch.set_num_threads(1)

    data = load(args.data)
    rows = data.rows("train")
    known = vocabulary([*data.caption[rows], *data.classes], set(data.style.tolist()))
    config = architecture(len(known) + 3)
    model = open_clip.CLIP(**config).eval()
    trainer = CpuTrainer(model, matrices="resblocks", minutes=args.minutes, coarse=args.coarse, counts=args.steps)
    make_trainable(model)
    flippable = data.flippable()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(known)} words", flush=True)

    draw = batches(data, rows, args.batch)
    for fraction in trainer.steps():
        coarse = fraction < args.coarse
        index = next(draw)[: None if coarse else args.batch // 2]
        images = jitter(flip(data.images(index), flippable[index]))
        images = F.avg_pool2d(images, 2) if coarse else images
        texts = [
            f"{data.caption[i]} {data.style[i]} style" if np.random.rand() < 0.3 else data.caption[i] for i in index
        ]
        with ExplicitAttention(), torch.autocast("cpu", torch.bfloat16):
            image, text = model.encode_image(images), model.encode_text(tokenize(texts, known))
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = image @ text.T * model.logit_scale.exp().clamp(max=100)
        target = torch.arange(len(index))
        trainer.update((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2, len(index))
        if len(trainer.losses) % 1000 == 0:
            print(f"held-out images R@1: {recall(trainer.average, data, data.rows(HELD_OUT[0]), known)}", flush=True)

    final = rounded(trainer.average)
    report = {
        "seed": args.seed,
        "cpu_minutes": round(time.process_time() / 60, 1),
        "steps": len(trainer.losses),
        "images_seen": trainer.seen,
        "recall_at_1": {split: recall(final, data, data.rows(split), known) for split in HELD_OUT},
    }
    save_half(final, args.out / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    written = {"model_cfg": config, "preprocess_cfg": preprocess, "trained": report}
    (args.out / "open_clip_config.json").write_text(json.dumps(written, indent=2) + "\n")
    (args.out / "vocabulary.json").write_text(json.dumps(known) + "\n")
    print(f"done: {report}")


if __name__ == "__main__":
    main()
