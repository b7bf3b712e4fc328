"""A user's attention function: what it is handed, that plain attention changes nothing, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from interventions import SpecError, attend
from interventions.families import Function
from interventions.seam.sites import SeamError
from tests.builders import models
from tests.builders.one_call import LAYOUT, one_call, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def plain(query, key, value, mask, scale):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def sigmoid(query, key, value, mask):
    """Attention without a softmax: every weight is the sigmoid of its logit, divided by the number of keys."""
    return torch.sigmoid(query @ key.mT / math.sqrt(query.shape[-1])) @ value / key.shape[2]


@pytest.mark.parametrize("function", [plain, F.scaled_dot_product_attention], ids=["written", "torch's own"])
@pytest.mark.parametrize("name", ["dit", "sd3", "sdxl"])
def test_plain_attention_gives_the_stock_model_bit_for_bit(name, function):
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")()
    with attend(model, Function("mine", function), layout=layout):
        output = model(**inputs).sample
    assert torch.equal(output, model(**inputs).sample)


@pytest.mark.parametrize("name", ["dit", "sd3", "sdxl"])
def test_another_attention_is_what_the_model_runs_under(name):
    # expected: the fused calls answered by the same formula in float64, where logits are read back off dense weights
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")()
    handed = []

    def answer(query, key, value, mask):
        handed.append((query.double(), key.double(), value.double()))
        return sigmoid(query, key, value, mask)

    numbers = iter(range(99))

    def edit(number, attention, value):
        query, key, _ = handed[next(numbers)]
        torch.testing.assert_close(attention, dense.weights(query, key), atol=1e-5, rtol=1e-4)
        return torch.sigmoid(query @ key.mT / math.sqrt(query.shape[-1])) @ value.double() / key.shape[2]

    with attend(model, Function("mine", answer), layout=layout):
        output = model(**inputs).sample
    with dense.Densely(edit):
        expected = model(**inputs).sample
    assert dense.relative(output, expected) < 1e-5


def test_it_is_handed_whole_calls_with_the_models_own_mask_and_scale():
    query, key, value = random_call(heads=4)
    grouped = key[:, :2], value[:, :2]
    allowed = torch.rand(26, 26, generator=torch.Generator().manual_seed(1)) < 0.5
    seen = []

    def look(q, k, v, mask, scale):
        seen.append((q, k, v, mask, scale))
        return torch.zeros_like(q)

    model = one_call(
        query=query, key=grouped[0], value=grouped[1], attn_mask=allowed, scale=0.3, enable_gqa=True
    )  # two query heads to a key head, as in grouped-query attention
    with attend(model, Function("mine", look).at(heads=(1,), queries="image"), layout=LAYOUT):
        output = model()
    ((q, k, v, mask, scale),) = seen
    assert torch.equal(q, query)
    assert torch.equal(k, grouped[0].repeat_interleave(2, 1))
    assert torch.equal(v, grouped[1].repeat_interleave(2, 1))
    assert torch.equal(mask, allowed)
    assert scale == 0.3
    assert torch.count_nonzero(output[:, 1, :20]) == 0
    stock = model()
    assert torch.equal(output[:, 1, 20:], stock[:, 1, 20:])
    assert torch.equal(output[:, [0, 2, 3]], stock[:, [0, 2, 3]])


def test_a_dose_mixes_it_with_the_stock_output():
    tensors = random_call()
    own, stock = sigmoid(*tensors, None), run("clean", tensors)[0]
    mixed = run(Function("mine", sigmoid).at(strength=0.3), tensors)[0]
    torch.testing.assert_close(mixed, 0.7 * stock + 0.3 * own)


def test_what_it_attends_to_is_not_known_and_recorded_as_missing():
    record = ["mass-per-head", "mass", "entropy", "sinks", "words"]
    _, taken = run(Function("mine", sigmoid), random_call(), record=record)
    for name in ("mass", "mass_layer", "entropy", "sink_mass", "word_map"):
        assert taken[name].isnan().all(), name
    assert (taken["sink_token"] == -1).all()
    _, some = run(Function("mine", sigmoid).at(heads=(1,)), random_call(), record=record)
    known = run("clean", random_call(), record=record)[1]
    torch.testing.assert_close(some["mass"][..., 0, :], known["mass"][..., 0, :])
    assert some["mass"][..., 1, :].isnan().all()


def fails(q, k, v, mask):
    raise ZeroDivisionError("of all things")


WRONG = [
    (
        lambda q, k, v, mask: v[:, :, 1:],
        r"gave float32 \[3, 2, 25, 8\] at attn; an output .* is float32 \[3, 2, 26, 8\]",
    ),
    (lambda q, k, v, mask: q.double(), r"gave float64 \[3, 2, 26, 8\]"),
    (lambda q, k, v, mask: (q, None), "gave a tuple at attn; an output is a tensor"),
    (lambda q, k, v, mask: q / 0, "gave NaN or infinite numbers at attn, the stock attention none"),
    (fails, "failed at attn: ZeroDivisionError: of all things"),
    (lambda q, k, v: q, "failed at attn: TypeError"),
]


@pytest.mark.parametrize(("function", "words"), WRONG)
def test_what_is_no_output_of_attention_is_refused_with_the_site(function, words):
    with pytest.raises(SeamError, match=f"mine: .*{words}"):
        run(Function("mine", function), random_call())


def test_a_model_that_scales_its_logits_needs_a_function_that_takes_scale():
    query, key, value = random_call()
    model = one_call(query=query, key=key, value=value, scale=0.5)
    with (
        pytest.raises(SeamError, match=r"scales its logits by 0.5.*write it as f\(q, k, v, mask, scale\)"),
        attend(model, Function("mine", sigmoid), layout=LAYOUT),
    ):
        model()


def test_names_and_what_cannot_be_called_are_refused_and_the_source_is_the_fingerprint():
    for label, words in (("R4S32", "that is a spec already"), ("a@b", "starts with a letter"), ("", "a letter")):
        with pytest.raises(SpecError, match=words):
            Function(label, plain)
    with pytest.raises(SpecError, match=r"it is no function of \(q, k, v, mask\)"):
        Function("mine", 3)
    arm = Function("mine", plain).at(layers=(1,), strength=0.5)
    assert str(arm) == "mine@layers=1;strength=0.5"
    assert arm.parameters == {"function": "tests.interventions.test_functions:plain"}
    assert arm.fingerprint().startswith("tests.interventions.test_functions:plain ")
    assert arm.fingerprint() == Function("other", plain).fingerprint()
    assert arm.fingerprint() != Function("mine", sigmoid).fingerprint()
