"""Which of a step's denoiser calls, and which part of its batch, is the conditional one: read off the guidance weights.

Classifier-free guidance gives w * conditional + (1 - w) * unconditional with w > 1, so the conditional piece is the one
of largest |weight|, whatever the order, sign, or scaling back afterwards. Nothing is assumed of names or arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def copies_in(sample: torch.Tensor) -> int:
    """How often the rows of a scheduler's sample repeat each other: 2 where a pipeline steps the doubled batch."""
    rows = len(sample)
    for copies in (2, 3):
        parts = sample.chunk(copies) if rows % copies == 0 else ()
        if parts and all(torch.equal(part, parts[0]) for part in parts[1:]):
            return copies
    return 1


def conditional(outputs: Sequence[Any], model_output: torch.Tensor, samples: int) -> tuple[int, int, int]:
    """(call in the step, part of its batch, number of parts) of the conditional piece.

    `outputs`: what each call of the denoiser gave, in order. `model_output`: what the scheduler was given,
    [rows, ...], its first `samples` rows the samples. Where the outputs cannot be compared with it, the last piece.
    """
    places, pieces = [], []
    target = model_output[:samples]
    for number, output in enumerate(outputs):
        batch = as_tensor(output)
        parts = max(1, len(batch) // samples)
        for part in range(parts):
            places.append((number, part, parts))
            pieces.append(_cut(batch[part * samples : (part + 1) * samples], target))
    if len(pieces) == 1 or any(piece is None for piece in pieces):
        return places[-1]
    sizes = weights([piece for piece in pieces if piece is not None], target).abs()
    largest = float(sizes.max())
    return [place for place, size in zip(places, sizes.tolist(), strict=True) if size >= largest * (1 - 1e-6)][-1]


def weights(pieces: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """float64 [pieces]: the least-squares combination of the pieces that gives the target."""
    columns = torch.stack([piece.detach().double().cpu().flatten() for piece in pieces], dim=1)
    return torch.linalg.lstsq(columns, target.detach().double().cpu().flatten()[:, None]).solution[:, 0]


def as_tensor(output: Any) -> torch.Tensor:
    """The batch that a denoiser gave, whether as a tuple, an output object, or a list of samples (Z-Image)."""
    first = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
    return torch.stack(list(first)) if isinstance(first, list | tuple) else first


def _cut(piece: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    """The piece in the shape of the target: further channels (a learned variance) or tokens (a reference) dropped."""
    if piece.numel() == target.numel():
        return piece.reshape(target.shape)
    if piece.dim() != target.dim() or any(has < wants for has, wants in zip(piece.shape, target.shape, strict=True)):
        return None
    return piece[tuple(slice(0, size) for size in target.shape)]
