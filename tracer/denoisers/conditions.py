"""Encoded prompts, each encoded once per run and alone, so that a condition does not depend on the batch it is used in.

The encoders themselves belong to the families (`sd3`, `sdxl`): they hand in a function that loads what it needs,
encodes, and lets go of it. Here is only the cache and the batch that is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from tracer.denoisers import CheckpointError, Sample


@dataclass(frozen=True)
class Condition:
    """One encoded prompt: `tokens` [text, width], `pooled` [width], `real` bool [text], False where it is padding."""

    tokens: Tensor
    pooled: Tensor
    real: Tensor


Encode = Callable[[Sequence[str]], list[Condition]]


@dataclass
class Conditions:
    """A cache over `encode`, which is called with the prompts not seen before only. `text`: tokens per prompt."""

    encode: Encode
    text: int
    known: dict[str, Condition] = field(default_factory=dict)

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encode these prompts now, so that the encoders are loaded once for a whole run and not once per unit."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        if not missing:
            return
        with torch.no_grad():
            encoded = self.encode(missing)
        for prompt, condition in zip(missing, encoded, strict=True):
            if len(condition.tokens) != self.text:
                raise CheckpointError(
                    f"the text encoders give {len(condition.tokens)} tokens where the layout has {self.text}: "
                    "the tokenizers and the text encoders of this checkpoint do not belong together"
                )
            self.known[prompt] = condition

    def batch(self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(tokens [n, text, width], pooled [n, width]) of these prompts."""
        self.prepare(prompts)
        chosen = [self.known[prompt] for prompt in prompts]
        return (
            torch.stack([c.tokens for c in chosen]).to(device, dtype),
            torch.stack([c.pooled for c in chosen]).to(device, dtype),
        )

    def padding(self, prompts: Sequence[str]) -> np.ndarray:
        """Bool [n, text]: the text tokens that only fill up the sequence."""
        self.prepare(prompts)
        return np.stack([~self.known[prompt].real.cpu().numpy() for prompt in prompts])

    def padding_of_rows(self, negative: str, prompts: Sequence[str], guidance: float) -> Tensor:
        """The same for the halves of a `guidance_batch`: bool [half, n, text]."""
        halves = (
            [self.padding(prompts)]
            if guidance == 1
            else [self.padding([negative] * len(prompts)), self.padding(prompts)]
        )
        return torch.from_numpy(np.stack(halves))


def guidance_batch(
    x: Tensor, lanes: int, negative: Sequence[Tensor], positive: Sequence[Tensor], guidance: float
) -> tuple[Tensor, list[Tensor]]:
    """Rows of one forward: x [lanes, samples, ...] as [negative, positive] halves, each lane-major.

    `negative`, `positive`: tensors [samples, ...]. With guidance 1 the positive half alone. Also returns
    the conditions row by row.
    """
    halves = [positive] if guidance == 1 else [negative, positive]
    rows = torch.cat([x.flatten(0, 1)] * len(halves))
    return rows, [torch.cat([part for part in parts for _ in range(lanes)]) for parts in zip(*halves, strict=True)]


def guided(value: Tensor, shape: Sequence[int], guidance: float) -> Tensor:
    """[negative, positive] halves -> negative + guidance (positive - negative), of `shape` (Ho & Salimans 2022)."""
    if guidance == 1:
        return value.view(shape)
    negative, positive = value.view(2, *shape)
    return negative + guidance * (positive - negative)


def prompts_of(samples: Sequence[Sample]) -> list[str]:
    """The samples' prompts. Raises ValueError where one has none."""
    if lacking := [sample.index for sample in samples if sample.prompt is None]:
        raise ValueError(f"samples {lacking} have no prompt: a text-to-image model needs one each")
    return [str(sample.prompt) for sample in samples]


def require_parts(folder: Path, parts: Sequence[str], checkpoint: str) -> None:
    """Raise CheckpointError unless every part of the pipeline lies in the folder."""
    if lacking := [part for part in parts if not (folder / part).is_dir()]:
        raise CheckpointError(
            f"{checkpoint} is not a whole pipeline, {', '.join(lacking)} missing in {folder}: "
            "give the folder that `pipeline.save_pretrained` or `hf download` writes"
        )


LOADING = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError, SafetensorError)
"""What diffusers and transformers raise for files that are broken or of another kind."""
