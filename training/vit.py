"""Train an embedded ViT classifier: timm's own VisionTransformer on the emoji, averaged tokens or a class token.

Same images, grid (16 x 16 tokens), width, depth and heads as the embedded DiT, so the three tasks differ in task only.
Weights and configuration are written in timm's local format: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    python -m training.vit --data emoji32.npz --out vit --pool avg --minutes 8
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

from training.common import Emoji, ExplicitAttention, flip, load
from training.networks import HELD_OUT, CpuTrainer, add_budget, jitter, rounded, save_half

ARCHITECTURE = "vit_tiny_patch16_224"
SHAPE = {"img_size": 32, "patch_size": 2, "embed_dim": 128, "depth": 6, "num_heads": 4}


def mixed(images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """CutMix (Yun et al. 2019) with one box per batch; `target` [n, classes] is mixed by area."""
    n, size = len(images), images.shape[-1]
    order = torch.randperm(n)
    side = (1 - torch.rand(()) * 0.8).sqrt() if torch.rand(()) < 0.5 else torch.zeros(())
    cut = int((side * size).round().clamp(max=size - 1))
    y, x = torch.randint(0, size - cut + 1, (2,)).tolist()
    images = images.clone()
    images[:, :, y : y + cut, x : x + cut] = images[order][:, :, y : y + cut, x : x + cut]
    share = cut * cut / (size * size)
    return images, (1 - share) * target + share * target[order]


@torch.no_grad()
def accuracy(model: nn.Module, data: Emoji, rows: torch.Tensor) -> float:
    """Share of `rows` whose class the model gets right, in float32."""
    right = [(model(data.images(part)).argmax(1) == data.label[part]).sum() for part in rows.split(100)]
    return int(sum(right)) / len(rows)


def configuration(data: Emoji, model_args: dict, report: dict) -> dict:
    """timm's `config.json` for a local folder; `trained` is ours."""
    pretrained = {
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "num_classes": len(data.classes),
        "label_names": list(data.classes),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }
    return {
        "architecture": ARCHITECTURE,
        "num_classes": len(data.classes),
        "num_features": SHAPE["embed_dim"],
        "model_args": model_args,
        "pretrained_cfg": pretrained,
        "trained": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pool", choices=["avg", "token"], default="avg")
    add_budget(parser, 8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    data = load(args.data)
    rows, classes = data.rows("train"), len(data.classes)
    weights, flippable = data.balance(rows), data.flippable()
    model_args = SHAPE | {"class_token": args.pool == "token", "global_pool": args.pool, "fc_norm": False}
    model = timm.create_model(ARCHITECTURE, num_classes=classes, dynamic_img_size=True, **model_args).eval()
    trainer = CpuTrainer(model, matrices="blocks", minutes=args.minutes, coarse=args.coarse, counts=args.steps)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(rows)} images", flush=True)

    for fraction in trainer.steps():
        coarse = fraction < args.coarse
        n = args.batch * (2 if coarse else 1)
        index = rows[torch.multinomial(weights, n)]
        images, target = jitter(flip(data.images(index), flippable[index])), F.one_hot(data.label[index], classes)
        images, target = mixed(images, target.float())
        with ExplicitAttention(), torch.autocast("cpu", torch.bfloat16):
            logits = model(F.avg_pool2d(images, 2) if coarse else images)
        trainer.update(F.cross_entropy(logits.float(), target, label_smoothing=0.05), n)
        if len(trainer.losses) % 1000 == 0:
            held_out = [round(accuracy(trainer.average, data, data.rows(split)), 3) for split in HELD_OUT]
            print(f"held-out images and concepts: {held_out}", flush=True)

    final = rounded(trainer.average)
    report = {
        "seed": args.seed,
        "cpu_minutes": round(time.process_time() / 60, 1),
        "steps": len(trainer.losses),
        "images_seen": trainer.seen,
        "accuracy": {split: round(accuracy(final, data, data.rows(split)), 4) for split in HELD_OUT},
    }
    save_half(final, args.out / "model.safetensors")
    (args.out / "config.json").write_text(json.dumps(configuration(data, model_args, report), indent=2) + "\n")
    print(f"done: {report}")


if __name__ == "__main__":
    main()
