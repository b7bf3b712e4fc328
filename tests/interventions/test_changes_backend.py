"""Attention backends: the native one changes no bit, others round otherwise, and the seam has its own again after."""

import pytest

from interventions import SpecError, attend, parse
from interventions.changes.base import At
from tests.builders import families
from tests.builders.changed import answer, answers, clean, equal, network_of


@pytest.mark.parametrize("kind", ["dit", "sd3", "flux", "sdxl"])
def test_the_native_backend_changes_no_bit_and_another_kernel_the_last_ones(kind):
    network, inputs = network_of(kind)
    want = clean(network, inputs, 2)
    assert all(equal(answers(parse("backend-native"), network, inputs, 2), want))
    given = answers(parse("backend-_native_math"), network, inputs, 2)
    for one, other in zip(given, want, strict=True):
        assert 0 < (one - other).abs().max() < 1e-4 * other.abs().max()


def test_inside_the_seam_the_backend_is_its_own_and_then_pinned_again():
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    network, layout = families.flux()
    _, inputs = network_of("flux")
    want, flex = answer(network, inputs(0)), AttentionBackendName("flex")
    own = _AttentionBackendRegistry._backends[flex]
    with attend(network, parse("clean"), layout=layout) as recorder:
        assert (answer(network, inputs(0)) == want).all()
        pinned = _AttentionBackendRegistry._backends[flex]
        with recorder.aside(), parse("backend-flex").around(network, {}, At(0, 1)):
            assert _AttentionBackendRegistry._backends[flex] is own
            given = answer(network, inputs(0))
        assert _AttentionBackendRegistry._backends[flex] is pinned
        assert (answer(network, inputs(0)) == want).all()
    assert _AttentionBackendRegistry._backends[flex] is own
    assert 0 < (given - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize(
    ("kind", "backend", "words"),
    [
        ("flux", "nonsense", "no such backend; on this machine there are native, _native_math"),
        ("flux", "_native_math2", "for example backend-_native_math"),
        ("flux", "_native_npu", "torch_npu"),
        ("dit", "flex", r"dispatcher \(transformer_blocks.0.attn1 and 1 more\); it can have native, _native_math"),
    ],
)
def test_what_cannot_be_had_says_so(kind, backend, words):
    network, inputs = network_of(kind)
    change = parse(f"backend-{backend}")
    for ask in (change.fingerprint, lambda network: answers(change, network, inputs, 1)):
        with pytest.raises(SpecError, match=words):
            ask(network)


def test_a_backend_by_its_short_name_is_suggested():
    for typed, meant in (("math", "backend-_native_math"), ("flex", "backend-flex"), ("backend:sage", "backend-sage")):
        with pytest.raises(SpecError, match=meant):
            parse(typed)
