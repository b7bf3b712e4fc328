"""The text among the arguments of a denoiser: embeddings or numbers of words that do not hang on the state."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from interventions import TokenLayout

LONG = 300
LOUD = 10
"""What is drawn anew is so many times as large as what it replaces, so that it shows in every token and precision."""
_NOT_TEXT = ("mask", "ids", "rotary", "image", "img", "control", "time", "global", "freqs")
_WORDS = "input_ids"


def retold(name: str, value: Any) -> Any:
    """The argument with other text: embeddings drawn anew (`LOUD`), words each exchanged for the next.

    Other things stay as they are.
    """
    if isinstance(value, dict):
        return {key: retold(f"{name}.{key}", one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(retold(f"{name}[]", one) for one in value)
    if isinstance(value, torch.Tensor) and name.endswith(_WORDS) and not value.is_floating_point():
        return (value + 1) % (value.max() + 1).clamp(min=2)
    return _redrawn(value) if _is_text(name, value) else value


def unpooled(name: str, value: Any, before: Any) -> Any:
    """The argument, but what it says of a text as a whole (float [sample, feature]) as it was before."""
    if isinstance(value, dict) and isinstance(before, dict) and value.keys() == before.keys():
        return {key: unpooled(f"{name}.{key}", one, before[key]) for key, one in value.items()}
    if isinstance(value, torch.Tensor) and isinstance(before, torch.Tensor) and value.shape == before.shape:
        return before if value.is_floating_point() and value.dim() == 2 and "mask" not in name else value
    return value


def reworded(prompt: Any, words: int) -> Any:
    """A prompt, or a list of them, cut or repeated to so many words; None where there is none."""
    if isinstance(prompt, str):
        return " ".join(itertools.islice(itertools.cycle(prompt.split() or ["word"]), words))
    return [reworded(one, words) for one in prompt] if isinstance(prompt, list) and prompt else None


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, tensors entry by entry."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other)


def filled_up(pipe: Any, longest: int | None, layout: TokenLayout) -> Any:
    """The tokenizer whose tokens are all of the text, filled up to one length; None where that is not known.

    It is the pipeline's one T5 tokenizer, where the text is as long as its own limit (FLUX, PixArt, Wan, LTX). Where
    several encoders share the text, or padding is cut off, or a chat stands around the prompt, it is not told.
    """
    kinds = (part for name, part in getattr(pipe, "components", {}).items() if name.startswith("tokenizer"))
    own = [part for part in kinds if type(part).__name__.startswith("T5")]
    return own[0] if len(own) == 1 and layout.text and layout.text == longest and not layout.elastic else None


def spelled(pipe: Any, longest: int | None, layout: TokenLayout) -> list[tuple[Any, int]]:
    """The tokenizers whose tokens stand one after the other in the text, each with its length; [] where not known.

    Known are a T5 alone (see `filled_up`), CLIPs alone, which share their places (SD1, SDXL), and CLIPs before a T5
    (SD3). Lengths that do not add up to the text tell nothing.
    """
    if alone := filled_up(pipe, longest, layout):
        return [(alone, layout.text)]
    kinds = [part for name, part in getattr(pipe, "components", {}).items() if name.startswith("tokenizer")]
    kinds = [part for part in kinds if part is not None]
    clips = [part for part in kinds if type(part).__name__.startswith("CLIP")]
    t5s = [part for part in kinds if type(part).__name__.startswith("T5")]
    told = [(part, int(part.model_max_length)) for part in clips[:1]] + [(part, longest or 0) for part in t5s]
    others = len(kinds) > len(clips) + len(t5s) or len(t5s) > 1 or not clips
    return [] if others or layout.elastic or sum(length for _, length in told) != layout.text else told


def _is_text(name: str, value: Any) -> bool:
    """Whether a value is embeddings [sample, token, feature], or [token, feature] in a list of samples (Z-Image)."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    axes = 2 if name.endswith("[]") else 3
    return value.dim() >= axes and not any(word in name for word in _NOT_TEXT)


def _redrawn(text: torch.Tensor) -> torch.Tensor:
    draw = torch.randn(text.shape, generator=torch.Generator().manual_seed(1))
    return (draw * LOUD * text.float().std().cpu()).to(text)
