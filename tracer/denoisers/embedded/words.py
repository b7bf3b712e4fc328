"""The embedded text encoder: one learned vector per word plus a learned position, and their pooled sum.

It stands where SD3 has CLIP and T5; `training/sd3.py` trains it together with the transformer. Unknown words share one
vector, so a prompt outside the emoji vocabulary is legal and says little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

PAD, UNKNOWN, END = 0, 1, 2
CONTEXT = 14
"""Tokens per prompt."""


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("’", "").replace("'", ""))


def tokenize(texts: Iterable[str], vocabulary: dict[str, int], context: int = CONTEXT) -> torch.Tensor:
    """int64 [n, context]: word ids, end token, padding. The empty prompt is the end token alone."""
    rows = []
    for text in texts:
        ids = [*(vocabulary.get(word, UNKNOWN) for word in words(text)[: context - 1]), END]
        rows.append(ids + [PAD] * (context - len(ids)))
    return torch.tensor(rows)


class WordEncoder(nn.Module):
    """ids [n, context] -> (tokens [n, context, width], pooled [n, width]); padding is left out of the pooled sum."""

    def __init__(self, vocabulary: int, width: int, context: int = CONTEXT):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed word ids."""
        tokens = self.embedding(ids)
        real = (ids != PAD).to(tokens.dtype).unsqueeze(-1)
        return tokens + self.position, (tokens * real).sum(1) / real.sum(1).sqrt()
