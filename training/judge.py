"""Train the judge: the convolutional classifier that scores generated pictures (`classify_clip.embedded.judge`).

It is no subject of the study, so it may be as different from the transformers as possible. The two held-out splits are
only read for the accuracies written into its configuration.

    python -m training.judge --data emoji32.npz --out judge --minutes 4
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from classify_clip.embedded.judge import build
from training.common import Emoji, Trainer, flip, load, shift

CHANNELS, STRIDES = [48, 64, 96, 128, 128, 192], [1, 2, 1, 2, 1, 2]


@torch.no_grad()
def accuracy(model: nn.Module, data: Emoji, rows: torch.Tensor) -> float:
    """Share of `rows` whose class the model gets right, in float32."""
    right = [(model(data.images(part)).argmax(1) == data.label[part]).sum() for part in rows.split(200)]
    return int(sum(right)) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    data = load(args.data)
    rows = data.rows("train")
    weights, flippable = data.balance(rows), data.flippable()
    model = build(CHANNELS, STRIDES, len(data.classes)).to(memory_format=torch.channels_last).train()
    trainer = Trainer(model, matrices="(none)", minutes=args.minutes, lr=3e-3, flat=0.4)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(rows)} images", flush=True)

    for _ in trainer.steps():
        index = rows[torch.multinomial(weights, args.batch)]
        images = shift(flip(data.images(index), flippable[index]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.to(memory_format=torch.channels_last))
        trainer.update(F.cross_entropy(logits.float(), data.label[index], label_smoothing=0.05), args.batch)

    judge = trainer.average.eval()
    for value in judge.state_dict().values():  # ship what is measured: half-precision weights, evaluated in float32
        if value.is_floating_point():
            value.copy_(value.half().float())
    splits = {split: accuracy(judge, data, data.rows(split)) for split in ("held-out-images", "held-out-concepts")}
    args.out.mkdir(parents=True, exist_ok=True)
    state = {name: (v.half() if v.is_floating_point() else v).contiguous() for name, v in judge.state_dict().items()}
    save_file(state, args.out / "model.safetensors")
    config = {
        "channels": CHANNELS,
        "strides": STRIDES,
        "classes": list(data.classes),
        "trained": {"seed": args.seed, "steps": len(trainer.losses), "images_seen": trainer.seen},
        "accuracy": {split: round(value, 4) for split, value in splits.items()},
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"done: {len(trainer.losses)} steps, {trainer.seen} images, {splits}")


if __name__ == "__main__":
    main()
