"""Encoded prompts, each encoded once per run and alone, so that a condition does not depend on the batch it is used in.

Which encoders there are belongs to the families (`sd3`, `sdxl`): they hand in a function that encodes prompts. Here is
the cache, the batch that is made of it, and what loads the encoders of a diffusers pipeline and lets go of them again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.denoisers.base import CheckpointError, Sample
from tracer.denoisers.weights import LOADING
from tracer.denoisers.word_tokens import Word, by_position
from tracer.quiet import quiet


@dataclass(frozen=True)
class Condition:
    """One encoded prompt: `tokens` [text, width], `pooled` [width], `real` bool [text], False where it is padding.

    words: which of the tokens are which word; () where that is not known.
    """

    tokens: Tensor
    pooled: Tensor
    real: Tensor
    words: Sequence[Word] = ()


Encode = Callable[[Sequence[str]], list[Condition]]


@dataclass
class Conditions:
    """A cache over `encode`, which is called with the prompts not seen before only. `text`: tokens per prompt.

    `unknown`: prompt -> the words of it that the encoder does not know; None where it can read any word.
    """

    encode: Encode
    text: int
    unknown: Callable[[str], list[str]] | None = None
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

    def words(self, prompts: Sequence[str]) -> list[Sequence[Word]]:
        """The words of these prompts and their tokens; tokens by their numbers where words are not known."""
        padding = self.padding(prompts)
        return [self.known[prompt].words or by_position(row) for prompt, row in zip(prompts, padding, strict=True)]


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


def pipeline_encoder(
    load: Callable[[], Any], encode_one: Callable[[Any, str], Condition], folder: Path, device: torch.device
) -> Encode:
    """A function that loads a pipeline's text encoders, encodes prompts one by one, and frees the encoders."""

    def encode(prompts: Sequence[str]) -> list[Condition]:
        try:
            with quiet():
                pipeline = load()
        except CheckpointError:
            raise
        except LOADING as error:
            raise CheckpointError(f"the text encoders in {folder} do not load: {error}") from error
        pipeline.to(device)
        encoded = [encode_one(pipeline, prompt) for prompt in prompts]
        del pipeline
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return encoded

    return encode


def clip_tokens(folder: Path) -> int:
    """Tokens per prompt of the first tokenizer, which the pipeline uses for both."""
    from transformers import CLIPTokenizer

    try:
        return int(CLIPTokenizer.from_pretrained(folder / "tokenizer").model_max_length)
    except LOADING as error:
        raise CheckpointError(f"{folder / 'tokenizer'} does not load as a CLIP tokenizer: {error}") from error


def real_tokens(tokenizer: Any, prompt: str, length: int) -> Tensor:
    """Bool [length]: the tokens of a prompt that are not padding."""
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return ids.attention_mask[0].bool()
