"""The scope of heads: the named heads as the family does it, the others exactly stock; and heads that are off."""

import copy

import pytest
import torch
import torch.nn.functional as F

from interventions import SpecError, parse
from interventions.families import Function
from interventions.seam.attend import attend
from tests.builders import models
from tests.builders.one_call import LAYOUT, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def halved(query, key, value, mask, scale=None):
    """Half of the stock attention."""
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale) / 2


SPECS = ["R1S2", "sink-k2", "sink-k2-layer-value", "random-k2-mass", "topk5", "topk5@queries=image", "off", "half"]


def made(text):
    return Function("half", halved) if text == "half" else parse(text)


@pytest.mark.parametrize("strength", [1, 0.4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("text", SPECS)
def test_named_heads_are_as_under_the_whole_arm_and_the_others_stock_to_the_bit(text, masked, strength):
    tensors = random_call(heads=3)
    allowed = torch.rand(26, generator=torch.Generator().manual_seed(4)).expand(26, 26) < 0.8 if masked else None
    spec = made(text).at(strength=strength)
    record = ["mass-per-head", "entropy"]
    clean, paid = run("clean", tensors, mask=allowed, record=record)
    whole, seen = run(spec, tensors, mask=allowed, record=record)
    some, taken = run(spec.at(heads=(0, 2)), tensors, mask=allowed, record=record)
    assert torch.equal(some[:, 1], clean[:, 1])
    assert torch.equal(some[:, [0, 2]], whole[:, [0, 2]])
    assert not torch.equal(whole, clean)
    for name in ("mass", "entropy"):
        own, stock, ours = (each[name][0, 0, :, 0] for each in (seen, paid, taken))
        torch.testing.assert_close(ours[:, [0, 2]], own[:, [0, 2]], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(ours[:, 1], stock[:, 1], rtol=1e-6, atol=1e-7)


def test_all_heads_named_is_no_scope():
    tensors = random_call()
    assert torch.equal(run("R1S2@heads=0,1", tensors)[0], run("R1S2", tensors)[0])


def test_keys_that_are_removed_are_recorded_in_the_heads_where_they_are():
    tensors = random_call(heads=3)
    _, whole = run("sink-k2", tensors, record=["sinks"])
    _, taken = run("sink-k2@heads=1", tensors, record=["sinks"])
    for name in ("removed_token", "removed_mass", "removed_count", "removed_together"):
        assert torch.equal(taken[name][..., 1, :], whole[name][..., 1, :])
        others = taken[name][..., [0, 2], :]
        assert (others.isnan() if others.is_floating_point() else others == -1).all()


def test_maps_of_words_are_the_mean_over_the_heads_as_they_are_paid():
    query, key, value = random_call(heads=3)
    attention = dense.weights(query, key)
    sink = attention.mean(2).argmax(-1)
    gone = F.one_hot(sink, 26).bool().unsqueeze(2)
    attention[:, 1] = dense.renormalised(attention, ~gone)[:, 1]
    _, taken = run("sink-k1@heads=1", (query, key, value), record=["words"])
    expected = attention[:, :, LAYOUT.image, LAYOUT.size - LAYOUT.text :].mean(1).mT
    torch.testing.assert_close(taken["word_map"][0, 0].double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_heads_that_are_off_are_as_their_columns_of_the_output_projection_at_zero(name):
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")()
    block = copy.deepcopy(model)
    attention = [module for key, module in block.named_modules() if key.endswith((".attn1", ".attn"))][1]
    for projection in (attention.to_out[0], getattr(attention, "to_add_out", None)):
        if projection is not None:
            projection.weight[:, 8:] = 0  # the second of two heads of 8 channels
    with attend(model, parse("off@heads=1;layers=1"), layout=layout):
        off = model(**inputs).sample
    assert dense.relative(off, block(**inputs).sample) < 1e-6
    assert dense.relative(off, model(**inputs).sample) > 1e-2


def test_a_dose_of_off_leaves_that_much_less_and_attention_is_paid_as_ever():
    tensors = random_call()
    record = ["mass-per-head"]
    clean, paid = run("clean", tensors, record=record)
    some, taken = run("off@strength=0.75;queries=image", tensors, record=record)
    assert torch.equal(some[:, :, LAYOUT.image], clean[:, :, LAYOUT.image] * 0.25)
    assert torch.equal(some[:, :, 20:], clean[:, :, 20:])
    assert torch.count_nonzero(run("off", tensors)[0]) == 0
    torch.testing.assert_close(taken["mass"], paid["mass"])


def test_heads_that_a_model_has_not_are_refused():
    with pytest.raises(SpecError, match=r"off@heads=1,4: heads: the model has heads 0 to 3 \(for example heads=2\)"):
        parse("off@heads=1,4").check(LAYOUT, heads=4)
    parse("off@heads=1,3").check(LAYOUT, heads=4)
    with pytest.raises(SpecError, match="attn has heads 0 to 1"):
        run("R1S2@heads=2", random_call())
    for text, words in (("off@heads=1,1", "head 1 is named twice"), ("off@heads=x", "no 0-based head")):
        with pytest.raises(SpecError, match=words):
            parse(text)
    with pytest.raises(SpecError, match="full takes layers, steps, pause"):
        parse("full@heads=1")
