"""Train the embedded DiT: class-conditional, pixel space, epsilon prediction with learned-range variance.

Follows DiT-XL/2 in what matters for error dynamics (Peebles & Xie 2023; Nichol & Dhariwal 2021 for the variance):
linear betas 1e-4..0.02 over 1000 steps, twice the input channels out, 10% class dropout for guidance, a 16 x 16 token
grid without a class token. The loss on epsilon is weighted so that high noise, where classes are decided, is learned
within a CPU's patience; sampling is unchanged by that.

    python -m training.dit --data emoji32.npz --out dit --minutes 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel

from training.common import ExplicitAttention, Trainer, flip, load

STEPS = 1000


class Diffusion:
    """The forward process and the two losses, as tables over t = 0..999 (float32)."""

    def __init__(self) -> None:
        beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
        kept = torch.cumprod(1 - beta, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        posterior = beta * (1 - before) / (1 - kept)
        self.alpha, self.sigma = kept.sqrt().float(), (1 - kept).sqrt().float()
        self.log_beta = beta.log().float()
        self.log_posterior = torch.cat([posterior[1:2], posterior[1:]]).log().float()
        self.mean_of_eps = (beta / ((1 - beta) * (1 - kept)).sqrt()).float()
        snr = kept / (1 - kept)
        self.weight = ((1 / kept).clamp(max=10) * (5 / snr).clamp(max=1).sqrt()).float()

    def noised(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.alpha[t].view(-1, 1, 1, 1) * x0 + self.sigma[t].view(-1, 1, 1, 1) * eps

    def loss(self, output: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Weighted epsilon error plus the exact KL of the reverse step with its mean held fixed (t > 0)."""
        predicted, fraction = output.chunk(2, dim=1)
        error = (predicted - eps).square().mean((1, 2, 3))
        column = (-1, 1, 1, 1)
        low, high = self.log_posterior[t].view(column), self.log_beta[t].view(column)
        log_variance = low + (fraction + 1) / 2 * (high - low)
        shift = self.mean_of_eps[t].view(column) * (predicted.detach() - eps)
        kl = 0.5 * (log_variance - low - 1 + (low - log_variance).exp() + shift.square() * (-log_variance).exp())
        kl = torch.where(t > 0, kl.mean((1, 2, 3)), 0.0)
        return (self.weight[t] * error).mean() + 0.1 * kl.mean()


def build(width: int, heads: int, layers: int, classes: int) -> DiTTransformer2DModel:
    """A DiT whose modulation and output start at zero (adaLN-Zero)."""
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=3,
        out_channels=6,
        num_layers=layers,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    zeroed = [block.norm1.linear for block in model.transformer_blocks] + [model.proj_out_1, model.proj_out_2]
    for linear in zeroed:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return model.eval()  # in train() diffusers drops the label independently in every block; we drop it ourselves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--coarse", type=float, default=0.3, help="fraction of the time at 16 x 16 pixels")
    parser.add_argument("--start", type=Path, help="go on from these weights instead of from scratch")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if args.device == "cpu":
        torch.set_num_threads(1)

    data, diffusion = load(args.data), Diffusion()
    rows = data.rows("train")
    weights, flippable, null = data.balance(rows), data.flippable(), len(data.classes)
    model = build(args.width, args.heads, args.layers, null)
    if args.start:
        model.load_state_dict(DiTTransformer2DModel.from_pretrained(args.start).state_dict())
    model = model.to(args.device)
    flat = 0.0 if args.start else 0.5
    trainer = Trainer(model, matrices="transformer_blocks", minutes=args.minutes, lr=args.lr, flat=flat)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(rows)} images", flush=True)

    for fraction in trainer.steps():
        coarse = fraction < args.coarse
        n = args.batch * (2 if coarse else 1)
        index = rows[torch.multinomial(weights, n)]
        x0 = flip(data.images(index), flippable[index])
        x0 = F.avg_pool2d(x0, 2) if coarse else x0
        label = torch.where(torch.rand(n) < 0.1, null, data.label[index])
        t = ((torch.randperm(n) + torch.rand(n)) / n * STEPS).long().clamp(max=STEPS - 1)
        eps = torch.randn_like(x0)
        noisy = diffusion.noised(x0, eps, t).to(args.device)
        with ExplicitAttention(), torch.autocast(args.device, torch.bfloat16):
            output = model(noisy, timestep=t.to(args.device), class_labels=label.to(args.device)).sample
        trainer.update(diffusion.loss(output.float().cpu(), eps, t), n)
        if len(trainer.losses) % 1000 == 0:
            trainer.average.save_pretrained(args.out)
    trainer.average.save_pretrained(args.out)
    print(f"done: {len(trainer.losses)} steps, {trainer.seen} images")


if __name__ == "__main__":
    main()
