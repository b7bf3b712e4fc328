"""The seam against attention written out densely, for whole calls of every pipeline of the zoo.

The layout is made here from `Known`, so this holds the seam alone; what the probe finds is held by `test_table`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from interventions import SeamError, Segment, SpecError, TokenLayout, attend, parse
from tests.zoo import ZOO, Known
from tests.zoo.plain import DENOISERS, latents, plain
from tests.zoo.reference import ball, edited, without_sinks

EDITS = {"R1S0": ball(1), "sink-k1@keys=text": without_sinks(1, "text")}
CLOSE = 1e-5  # relative, in the 2-norm: float32 against float64 through four steps of a random network
AWAY = 300  # times the distance, at least, is what the mask itself changes


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
    calls[known.tokens, known.tokens] = (told(known.order),) * 2
    if known.cross and (known.tokens, known.cross) not in calls:
        calls[known.tokens, known.cross] = told(known.order), told((("text", known.cross),))
    return TokenLayout.of(*told(known.order).segments, calls=calls)


def seams(pipeline, known: Known, spec: str) -> list:
    apart = (*known.unreachable, *known.pooled)
    how = {"layout": layout_of(known), "calls": known.several, "unreachable": apart}
    models = (getattr(pipeline, part, None) for part in DENOISERS)
    return [attend(model, parse(spec), **how) for model in models if model is not None]


def acts(known: Known, spec: str) -> bool:
    """Whether the model has what the spec acts on."""
    return not known.refused and (bool(known.text) if "text" in spec else not known.unreachable)


POSSIBLE = [(name, spec) for name in sorted(ZOO) for spec in EDITS if acts(ZOO[name].known, spec)]


@pytest.mark.parametrize(("name", "spec"), POSSIBLE)
def test_a_mask_acts_on_the_tokens_that_the_architecture_says(name, spec):
    entry = ZOO[name]
    pipeline, call = entry.make()
    clean = final(pipeline, entry.make()[1])
    masked = final(pipeline, entry.make()[1], seams(pipeline, entry.known, spec))
    expected = final(pipeline, call, [edited(pipeline, entry.known, EDITS[spec])])
    assert (masked - expected).norm() <= CLOSE * expected.norm()
    assert (expected - clean).norm() >= AWAY * (masked - expected).norm()


@pytest.mark.parametrize(
    ("name", "spec"), [(name, spec) for name in sorted(ZOO) for spec in EDITS if (name, spec) not in POSSIBLE]
)
def test_what_cannot_act_is_refused_by_name_and_never_runs(name, spec):
    pipeline, call = ZOO[name].make()
    why = ZOO[name].known.refused or ("text" if "text" in spec else "no softmax call")
    with pytest.raises((SpecError, SeamError), match=why):
        final(pipeline, call, seams(pipeline, ZOO[name].known, spec))


def test_the_reference_tells_text_from_image():
    """FLUX reads text first; the same mask with the image first is another one."""
    entry = ZOO["flux1"]
    wrong = replace(entry.known, order=entry.known.order[::-1])
    right, other = (
        final(pipeline, call, [edited(pipeline, known, EDITS["R1S0"])])
        for (pipeline, call), known in ((entry.make(), entry.known), (entry.make(), wrong))
    )
    assert (other - right).norm() >= 0.01 * right.norm()
