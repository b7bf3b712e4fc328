"""The seam against attention written out densely, for whole calls of every pipeline of the zoo.

The layout is made here from `Known`, so this holds the seam alone; what the probe finds is held by `test_table`.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from interventions import attend, parse
from interventions.layout import Segment, TokenLayout
from tests.zoo import ZOO, Known
from tests.zoo.plain import DENOISERS, latents, plain
from tests.zoo.reference import ball, edited, without_sinks

EDITS = {"R1S0": ball(1), "sink-k1@keys=text": without_sinks(1, "text")}
CLOSE = 1e-5  # relative, in the 2-norm: float32 against float64 through four steps of a random network
AWAY = 100  # times that, at least, is what the mask itself changes


def final(pipeline, call, around=()) -> torch.Tensor:
    states: list[torch.Tensor] = []
    with ExitStack() as stack:
        for context in around:
            stack.enter_context(context)
        stack.enter_context(latents(pipeline, states))
        plain(pipeline, call, (0, 1))
    return states[-1]


def layout_of(known: Known) -> TokenLayout:
    def told(order):
        grid = {"image": lambda size: known.grid_of(size)}
        return TokenLayout.of(*(Segment(kind, size, grid.get(kind, lambda _: None)(size)) for kind, size in order))

    calls = {key: tuple(told(order) for order in pair) for key, pair in known.calls.items()}
    if known.cross:
        calls[known.tokens, known.cross] = told(known.order), told((("text", known.cross),))
    return TokenLayout.of(*told(known.order).segments, calls=calls)


@pytest.mark.parametrize("spec", EDITS)
@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_mask_acts_on_the_tokens_that_the_architecture_says(name, spec):
    entry = ZOO[name]
    pipeline, call = entry.make()
    clean = final(pipeline, entry.make()[1])
    seam = [
        attend(
            model,
            parse(spec),
            layout=layout_of(entry.known),
            calls=entry.known.several,
            unreachable=entry.known.unreachable,
        )
        for part in DENOISERS
        if (model := getattr(pipeline, part, None)) is not None
    ]
    masked = final(pipeline, entry.make()[1], seam)
    expected = final(pipeline, call, [edited(pipeline, entry.known, EDITS[spec])])
    size = expected.norm()
    print(name, spec, float((masked - expected).norm() / size), float((expected - clean).norm() / size))
    assert (masked - expected).norm() <= CLOSE * size
    assert (expected - clean).norm() >= AWAY * CLOSE * size
