"""Top-k sparse attention against dense float64 attention: which keys stay, ties, doses, and what is recorded."""

import math

import pytest
import torch

from interventions import SpecError, TokenLayout, parse
from interventions.seam import actions
from interventions.seam.attend import attend
from tests.builders import models
from tests.builders.one_call import LAYOUT, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)
IMAGE = torch.from_numpy(LAYOUT.kinds() == 0)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def best(attention, count, meant=None):
    """Bool [..., query, key]: by sorting every row of dense attention, the first so many of the keys that are meant."""
    meant = torch.ones(attention.shape[-1], dtype=torch.bool) if meant is None else meant
    ranks = attention.masked_fill(~meant, -1).argsort(-1, descending=True).argsort(-1)
    return (ranks < count) | ~meant


@pytest.mark.parametrize(("spec", "count"), [("topk1", 1), ("topk5", 5), ("topk0.25", 7), ("topk0.01", 1)])
def test_each_query_attends_to_its_keys_of_largest_logit_renormalised(spec, count):
    tensors = random_call()  # 26 keys; a quarter are 6.5, rounded half up
    attention = dense.weights(*tensors[:2])
    expected = dense.attend(dense.renormalised(attention, best(attention, count)), tensors[2])
    assert dense.relative(run(spec, tensors)[0], expected) < 1e-6


@pytest.mark.parametrize("strength", [0.1, 0.9])
def test_a_dose_scales_the_probability_of_the_keys_that_go_and_renormalises(strength):
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    kept = torch.where(best(attention, 5), 1.0, 1 - strength)
    expected = dense.attend(dense.renormalised(attention, kept.double()), tensors[2])
    assert dense.relative(run(f"topk5@strength={strength}", tensors)[0], expected) < 1e-6


def test_of_some_keys_only_these_compete_and_other_queries_are_left_alone():
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    masked = dense.renormalised(attention, best(attention, 3, IMAGE))
    expected = dense.attend(torch.where(IMAGE[:, None], masked, attention), tensors[2])
    assert dense.relative(run("topk3@queries=image;keys=image", tensors)[0], expected) < 1e-6


def test_keys_that_tie_with_the_last_one_stay_too():
    query, key, value = random_call(tokens=26)
    key[:, :, 20:] = key[:, :, :1]  # seven keys alike
    attention = dense.weights(query, key)
    least = attention.sort(-1, descending=True).values[..., 4:5]
    kept = attention >= least * (1 - 1e-6)
    assert kept.sum(-1).max() > 5
    expected = dense.attend(dense.renormalised(attention, kept), value)
    assert dense.relative(run("topk5", (query, key, value))[0], expected) < 1e-6


@pytest.mark.parametrize("spec", ["topk26", "topk999", "topk1.0", "topk20@keys=image", "topk6@keys=text"])
def test_where_all_keys_stay_it_is_the_clean_call_bit_for_bit(spec):
    tensors = random_call()
    assert torch.equal(run(spec, tensors)[0], run("clean", tensors)[0])


def test_keys_that_the_model_forbids_are_never_among_the_best():
    tensors = random_call()
    allowed = torch.rand(26, 26, generator=torch.Generator().manual_seed(3)) < 0.3
    allowed[:, 0] = True
    attention = dense.weights(*tensors[:2], allowed)
    expected = dense.attend(dense.renormalised(attention, best(attention, 6)), tensors[2])
    assert dense.relative(run("topk6", tensors, mask=allowed)[0], expected) < 1e-6


def test_what_is_recorded_is_what_is_paid_and_blocks_of_queries_change_nothing(monkeypatch):
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    paid = dense.renormalised(attention, best(attention, 4))
    record = ["mass-per-head", "entropy", "words"]
    output, taken = run("topk4", tensors, record=record)
    torch.testing.assert_close(taken["mass"][0, 0, :, 0].double(), paid.mean(2), atol=1e-7, rtol=1e-5)
    entropy = torch.special.entr(paid).sum(-1).mean(-1)
    torch.testing.assert_close(taken["entropy"][0, 0, :, 0].double(), entropy, atol=1e-5, rtol=1e-5)
    words = paid[:, :, IMAGE][..., ~IMAGE].mean(1).mT
    torch.testing.assert_close(taken["word_map"][0, 0].double(), words, atol=1e-6, rtol=1e-5)
    monkeypatch.setattr(actions, "_LOGITS", 3 * 2 * 26 * 7)  # seven queries at a time
    blocks, again = run("topk4", tensors, record=record)
    assert dense.relative(blocks, output) < 1e-6
    for name, value in taken.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", ["dit", "sd3", "sdxl"])
def test_a_model_runs_under_it_in_self_joint_and_cross_attention(name):
    # expected: every attention module written out densely in float64, each row cut to its three largest entries
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")()

    def edit(module, attention, value):
        return dense.attend(dense.renormalised(attention, best(attention, 3)), value)

    doubled = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    expected = dense.densify(model, edit)(**doubled).sample
    with attend(model, parse("topk3"), layout=layout):
        assert dense.relative(model(**inputs).sample, expected) < 1e-5


def test_gradients_flow_through_the_keys_that_stay():
    tensors = [tensor.double().requires_grad_() for tensor in random_call(rows=1, tokens=26)]
    with torch.enable_grad():
        run("topk4", tensors)[0].square().sum().backward()
        found = [tensor.grad.clone() for tensor in tensors]
        query, key, value = tensors
        attention = torch.softmax(query @ key.mT / math.sqrt(8), -1)
        masked = dense.renormalised(attention, best(attention.detach(), 4))
        for tensor in tensors:
            tensor.grad = None
        (masked @ value).square().sum().backward()
    for gradient, tensor in zip(found, tensors, strict=True):
        torch.testing.assert_close(gradient, tensor.grad, atol=1e-9, rtol=1e-7)


def test_specs_that_keep_nothing_or_tell_no_keys_apart_are_refused():
    for text, words in (("topk0", "1 or more"), ("topk1.5", "at most 1"), ("topk4@keys=word", "words from padding")):
        with pytest.raises(SpecError, match=words):
            parse(text)
    with pytest.raises(SpecError, match="no fixed mask"):
        parse("topk4").mask(TokenLayout((4, 4)))
