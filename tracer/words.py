"""How much each image token attends to each word of the prompt: in which steps it is measured, and the maps of words.

Which tokens are a word is the denoiser's to say; the attention that image tokens pay to text tokens is the seam's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interventions import parse
from interventions.records import WORDS, Words
from tracer.frames import frame_steps
from tracer.plan import Plan
from tracer.recording import ATTENTION


def asked(plan: Plan) -> str:
    """What the seam is to measure of words, as a record names it: in the steps of frames and the layers asked for."""
    return str(Words(tuple(frame_steps(plan.schedule.steps, plan.request.frames)), layers(plan)))


def layers(plan: Plan) -> tuple[int, ...] | None:
    """The layers that are averaged over; None: all."""
    named = plan.request.word_layers
    return None if named is None else parse(f"full@layers={named}").scope.layers


def looked(plan: Plan) -> frozenset[str]:
    """Everything of the run that the seam is to measure."""
    return frozenset(asked(plan) if name == WORDS else name for name in plan.record & ATTENTION)


def maps(plan: Plan, samples: Sequence, paid: Tensor, own: Sequence[int]) -> np.ndarray:
    """float32 [arm, sample, word, y, x] of attention [lane, sample, text token, image token]; `own`: lane of each arm.

    The tokens of a word are added together; words that a sample does not have are NaN. Of a video it is the mean over
    frames.
    """
    layout = plan.denoiser.layout
    assert layout is not None
    longest = max(map(len, plan.words))
    found = np.full((len(paid), len(samples), longest, *layout.grid), np.nan, np.float32)
    for row, sample in enumerate(samples):
        words = plan.words[sample.index]
        member = torch.zeros(len(words), layout.text, dtype=paid.dtype)
        for word, (_, tokens) in enumerate(words):
            member[word, list(tokens)] = 1
        summed = torch.einsum("wt,lti->lwi", member.to(paid.device), paid[:, row])
        frames = summed.unflatten(-1, (layout.frames, *layout.grid))
        found[:, row, : len(words)] = frames.mean(-3).float().cpu().numpy()
    return found[list(own)]
