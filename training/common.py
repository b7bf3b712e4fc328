"""What every training script here shares: the data with its splits, augmentation, the optimizer
pair with its schedule, and a fast attention for training. No model is defined here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from tracer.denoisers.embedded.words import words


@dataclass(frozen=True)
class Emoji:
    """The data set of `emoji.py`; `pixels` uint8 [n, 3, 32, 32], `label` int64 [n], the rest arrays of strings."""

    pixels: torch.Tensor
    label: torch.Tensor
    concept: np.ndarray
    caption: np.ndarray
    style: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]

    def rows(self, split: str) -> torch.Tensor:
        """Indices of one split."""
        return torch.from_numpy(np.flatnonzero(self.split == split))

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """float32 [n, 3, 32, 32] in [-1, 1]."""
        return self.pixels[index].float() / 127.5 - 1

    def flippable(self) -> torch.Tensor:
        """Bool [n]: a mirror image still shows the same thing (not for clocks, flags, hands, nor left and right)."""
        sided = [self.classes.index(name) for name in ("hand", "clock", "flag")]
        named = np.array(["left" in text or "right" in text for text in self.caption])
        return ~(torch.isin(self.label, torch.tensor(sided)) | torch.from_numpy(named))

    def balance(self, index: torch.Tensor) -> torch.Tensor:
        """Sampling weight of each row: class count to the power -0.75, because skin tones make `person` dominate."""
        label = self.label[index]
        return (torch.bincount(label).float() ** -0.75)[label]


def load(path: Path) -> Emoji:
    data = np.load(path)
    return Emoji(
        pixels=torch.from_numpy(data["pixels"]).permute(0, 3, 1, 2).contiguous(),
        label=torch.from_numpy(data["label"]),
        concept=data["concept"],
        caption=data["caption"],
        style=data["style"],
        split=data["split"],
        classes=tuple(data["classes"].tolist()),
    )


def shift(images: torch.Tensor, pixels: int = 3) -> torch.Tensor:
    """Move each image by up to `pixels` in x and y; white comes in at the edge."""
    padded = F.pad(images, (pixels,) * 4, value=1.0)
    size = images.shape[-1]
    corners = torch.randint(0, 2 * pixels + 1, (len(images), 2)).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, corners, strict=True)])


def flip(images: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images for which it is allowed."""
    chosen = (torch.rand(len(images)) < 0.5) & allowed
    images = images.clone()
    images[chosen] = images[chosen].flip(-1)
    return images


def vocabulary(captions: Iterable[str], styles: Iterable[str]) -> dict[str, int]:
    """Word -> id for every word of the captions and style names; ids 0, 1, 2 are padding, unknown and end."""
    known = sorted({word for text in captions for word in words(text)} | set(styles) | {"style"})
    return {word: index + 3 for index, word in enumerate(known)}


class ExplicitAttention(TorchFunctionMode):
    """Inside this mode fused attention is an explicit softmax in the input's dtype.

    At 256 tokens in bf16 on a CPU that is about twice as fast, forward and backward, as the fused kernel. For training
    only: it materialises tokens x tokens.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        mask = (kwargs or {}).get("attn_mask", args[3] if len(args) > 3 else None)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        return torch.softmax(scores, -1, dtype=scores.dtype) @ value


class Trainer:
    """Muon on the matrices of the blocks, AdamW elsewhere, warm-up then linear decay over the last half, EMA.

    `steps()` yields the fraction of the time budget that has passed, until it is used up; `update(loss)` is one step.
    """

    def __init__(
        self, module: torch.nn.Module, *, matrices: str, minutes: float, lr: float = 1.5e-3, flat: float = 0.5
    ):
        named = dict(module.named_parameters())
        self.module, self.average = module, copy.deepcopy(module).requires_grad_(False)
        muon = [p for n, p in named.items() if p.ndim == 2 and matrices in n and "embedding" not in n]
        chosen = {id(p) for p in muon}
        rest = [p for p in named.values() if id(p) not in chosen]
        self.optimizers = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
        if muon:
            self.optimizers.append(torch.optim.Muon(muon, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
        self.lr, self.flat, self.seconds, self.losses, self.seen = lr, flat, minutes * 60, [], 0

    def steps(self, log_every: int = 100) -> Iterator[float]:
        start = time.time()
        while (fraction := (time.time() - start) / self.seconds) < 1:
            self.fraction = fraction
            yield fraction
            if len(self.losses) % log_every == 0:
                rate = self.seen / (time.time() - start)
                mean = np.mean(self.losses[-log_every:])
                print(
                    f"step {len(self.losses)}  {100 * fraction:.0f}%  loss {mean:.4f}  {rate:.0f} images/s", flush=True
                )

    def update(self, loss: torch.Tensor, seen: int) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        decay = 1.0 if self.fraction < self.flat else (1 - self.fraction) / (1 - self.flat)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, (len(self.losses) + 1) / 100) * max(decay, 0.01)
            optimizer.step()
            optimizer.zero_grad()
        self.losses.append(loss.item())
        self.seen += seen
        keep = min(0.998, (1 + len(self.losses)) / (20 + len(self.losses)))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - keep)
            for kept, new in zip(self.average.buffers(), self.module.buffers(), strict=True):
                kept.copy_(new)
