"""Train the embedded SD3: text-to-image, pixel space, rectified flow with logit-normal times (Esser et al. 2024).

The transformer is diffusers' own `SD3Transformer2DModel` with query/key RMS norm; the text side is `words.WordEncoder`,
trained with it. A caption is the emoji's name, often with "<style> style", sometimes the class name alone, and empty in
10% of cases for guidance.

    python -m training.sd3 --data emoji32.npz --out sd3 --minutes 55
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file
from torch import nn

from tracer.denoisers.embedded.words import WordEncoder, tokenize
from training.common import Emoji, ExplicitAttention, Trainer, flip, load, vocabulary

GRID = 16


def coarse_positions(transformer: SD3Transformer2DModel) -> None:
    """Let the model see half-size images: its fixed position grid is averaged 2 x 2 instead of cropped."""
    embed = transformer.pos_embed
    full = embed.pos_embed.view(1, GRID, GRID, -1)
    pooled = F.avg_pool2d(full.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
    embed.cropped_pos_embed = lambda height, width: embed.pos_embed if height == 2 * GRID else pooled


class TextToImage(nn.Module):
    """The transformer and its word encoder, trained as one."""

    def __init__(self, words: int, width: int, heads: int, layers: int):
        super().__init__()
        self.text = WordEncoder(words, width)
        self.transformer = SD3Transformer2DModel(
            sample_size=2 * GRID,
            patch_size=2,
            in_channels=3,
            out_channels=3,
            num_layers=layers,
            attention_head_dim=width // heads,
            num_attention_heads=heads,
            joint_attention_dim=width,
            caption_projection_dim=width,
            pooled_projection_dim=width,
            pos_embed_max_size=GRID,
            qk_norm="rms_norm",
        )
        norms = [n.linear for block in self.transformer.transformer_blocks for n in (block.norm1, block.norm1_context)]
        for linear in [*norms, self.transformer.norm_out.linear, self.transformer.proj_out]:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.eval()

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        tokens, pooled = self.text(ids)
        return self.transformer(
            noisy, timestep=1000 * time, encoder_hidden_states=tokens, pooled_projections=pooled
        ).sample

    def save(self, out: Path, known: dict[str, int]) -> None:
        self.transformer.save_pretrained(out / "transformer")
        save_file(self.text.state_dict(), out / "words.safetensors")
        (out / "vocabulary.json").write_text(json.dumps(known))


def captions(data: Emoji, index: torch.Tensor) -> list[str]:
    """One caption per row, drawn afresh: name, name with style, class name, or nothing."""
    texts = []
    for row in index.tolist():
        name = data.caption[row] if np.random.rand() < 0.85 else data.classes[data.label[row]]
        styled = f"{name} {data.style[row]} style" if np.random.rand() < 0.6 else name
        texts.append("" if np.random.rand() < 0.1 else styled)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=55)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--coarse", type=float, default=0.45, help="fraction of the time at 16 x 16 pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    if args.device == "cpu":
        torch.set_num_threads(1)

    data = load(args.data)
    rows = data.rows("train")
    known = vocabulary([*data.caption[rows], *data.classes], set(data.style.tolist()))
    weights, flippable = data.balance(rows), data.flippable()
    model = TextToImage(len(known) + 3, args.width, args.heads, args.layers).to(args.device)
    trainer = Trainer(model, matrices="transformer_blocks", minutes=args.minutes)
    coarse_positions(model.transformer)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(known)} words", flush=True)

    for fraction in trainer.steps():
        coarse = fraction < args.coarse
        n = args.batch * (2 if coarse else 1)
        index = rows[torch.multinomial(weights, n)]
        x0 = flip(data.images(index), flippable[index])
        x0 = F.avg_pool2d(x0, 2) if coarse else x0
        ids = tokenize(captions(data, index), known)
        time = torch.sigmoid(torch.randn(n))
        eps = torch.randn_like(x0)
        mix = time.view(-1, 1, 1, 1)
        noisy = (1 - mix) * x0 + mix * eps
        with ExplicitAttention(), torch.autocast(args.device, torch.bfloat16):
            velocity = model(noisy.to(args.device), time.to(args.device), ids.to(args.device))
        trainer.update(F.mse_loss(velocity.float().cpu(), eps - x0), n)
        if len(trainer.losses) % 1000 == 0:
            trainer.average.save(args.out, known)
    trainer.average.save(args.out, known)
    print(f"done: {len(trainer.losses)} steps, {trainer.seen} images")


if __name__ == "__main__":
    main()
