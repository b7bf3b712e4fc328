"""What the two training scripts here share: geometric augmentation, half-precision saving and the held-out scores.

Data, optimizers and fast attention come from `training.common`, the models' own libraries do
the rest. Nothing here is needed to use the shipped weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from training.common import Trainer

HELD_OUT = ("held-out-images", "held-out-concepts")


class CpuTrainer(Trainer):
    """The trainer with its budget in CPU time, so that a busy machine trains as long as an idle one.

    counts: steps at half size and at full size instead of a time, so that a second seed does what the first one did
    on another machine; `coarse` is the fraction of the schedule that the first of the two takes up.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        matrices: str,
        minutes: float,
        coarse: float,
        counts: tuple[int, int] | None = None,
        flat: float = 0.4,
    ):
        super().__init__(module, matrices=matrices, minutes=minutes, flat=flat)
        self.coarse, self.counts = coarse, counts

    def passed(self, start: float) -> float:
        """The fraction of the budget that is used up."""
        if self.counts is None:
            return (time.process_time() - start) / self.seconds
        (small, full), step = self.counts, len(self.losses)
        if step < small:
            return self.coarse * step / small
        return 1.0 if step >= small + full else self.coarse + (1 - self.coarse) * (step - small) / full

    def steps(self, log_every: int = 50) -> Iterator[float]:
        """The fraction of the budget that has passed, until it is used up."""
        start = time.process_time()
        while (fraction := self.passed(start)) < 1:
            self.fraction = fraction
            yield fraction
            if len(self.losses) % log_every == 0:
                rate, mean = self.seen / (time.process_time() - start), sum(self.losses[-log_every:]) / log_every
                print(
                    f"step {len(self.losses)}  {100 * fraction:.0f}%  loss {mean:.4f}  {rate:.0f} images/s", flush=True
                )


def add_budget(parser: argparse.ArgumentParser, minutes: float) -> None:
    """The options of a training's length."""
    parser.add_argument("--minutes", type=float, default=minutes, help="of CPU time")
    parser.add_argument("--coarse", type=float, default=0.7, help="fraction of the time at 16 x 16 pixels")
    parser.add_argument(
        "--steps", type=int, nargs=2, metavar=("HALF", "FULL"), help="steps at half and at full size, instead of a time"
    )


def jitter(images: torch.Tensor, *, zoom: float = 0.12, turn: float = 0.12, move: float = 0.12) -> torch.Tensor:
    """Random scale, rotation (radians) and shift (fraction of the half width) of each image; white comes in."""
    n = len(images)
    scale = 1 + zoom * (2 * torch.rand(n) - 1)
    angle = turn * torch.randn(n)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -scale * angle.sin(), scale * angle.sin()
    theta[:, :, 2] = move * (2 * torch.rand(n, 2) - 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - 1, grid, padding_mode="zeros", align_corners=False) + 1


def rounded(model: nn.Module) -> nn.Module:
    """The model with every floating-point value rounded to half precision in place: what ships is what is measured."""
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(value.half().float())
    return model


def save_half(model: nn.Module, path: Path) -> None:
    """Parameters and persistent buffers as float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}, path)
