"""Every pipeline of the zoo runs, says the same twice, and makes the attention calls that its `Known` says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.zoo import ZOO, Known
from tests.zoo.plain import attention_shapes, latents, plain


@pytest.fixture(scope="module", params=sorted(ZOO))
def entry(request):
    return ZOO[request.param]


def shapes_said(known: Known) -> set[tuple[int, int]]:
    cross = {(known.tokens, known.cross)} if known.cross else set()
    own = set() if known.unreachable else {(known.tokens, known.tokens)}
    return {*own, *cross, *(call[:2] for call in known.calls)}


def test_two_plain_calls_are_equal_and_another_seed_is_not(entry):
    pipeline, _ = entry.make()
    first, second, other = (plain(pipeline, entry.make()[1], seeds) for seeds in ((0, 1), (0, 1), (2, 3)))
    np.testing.assert_array_equal(first, second)
    assert len(first) == 2
    assert np.isfinite(first).all()
    assert not np.array_equal(first, other)


def test_two_pipelines_made_anew_have_equal_weights(entry):
    pictures = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pictures.append(plain(*entry.make(), (0, 1)))
    np.testing.assert_array_equal(*pictures)


def test_attention_calls_are_those_written_down(entry):
    """Counted by watching the softmax attention function itself, without the seam or the probe."""
    pipeline, call = entry.make()
    states = []
    with latents(pipeline, states):
        shapes = attention_shapes(pipeline, call)
    assert len(shapes) == entry.known.asked * len(states)
    assert {len(one) for one in shapes} == {entry.known.attentions}
    assert {shape for one in shapes for shape in one} == shapes_said(entry.known)
