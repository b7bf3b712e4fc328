"""What the weights of a pipeline that was handed in are, so that a run goes on with no others."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from tracer.denoisers.pipeline.hooks import denoisers


@torch.no_grad()
def weights_in_words(pipe: Any) -> str:
    """A fingerprint of the denoisers' weights: of every tensor its name, shape, sum and sum of squares in float64.

    Hashing all bytes of a large model takes a minute; this reads each weight once where it lies. Weights that differ
    in rounding differ in it, a rearrangement of equal values within one tensor does not.
    """
    digest = hashlib.sha256()
    for number, module in enumerate(denoisers(pipe)):
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{number} {name} {tuple(value.shape)} {_sums(value)}".encode())
    return f"sums:{digest.hexdigest()[:32]}"


def _sums(value: Tensor) -> str:
    if value.is_meta or not value.numel():
        return "-"
    flat = value.detach().flatten()
    parts = [part.double() for part in flat.split(1 << 24)]
    return " ".join(f"{float(torch.stack([(part**power).sum() for part in parts]).sum()):.17g}" for power in (1, 2))
