"""A site is (module, call number); attention without softmax is declared, and specs that mean it are refused."""

import pytest
import torch

from interventions.seam.attend import SeamError, attend, sites
from interventions.spec import SpecError, parse
from tests.builders import families, models
from tests.builders.one_call import heaviest
from tests.oracles import dense

torch.set_num_threads(1)

WAN_CALLS = {f"blocks.{block}.attn2": 2 for block in range(2)}
LINEAR = [f"transformer_blocks.{block}.attn1" for block in range(2)]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _doubled(inputs):
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}


def _without_heaviest(count, calls):
    """Dense meaning of sink-k on the named calls of a forward, the others untouched."""

    def edit(number, attention, value):
        if number in calls:
            attention = dense.renormalised(attention, ~heaviest(attention, count))
        return dense.attend(attention, value)

    return edit


def test_a_module_of_two_calls_is_named_with_what_to_declare():
    model, layout = families.wan()
    with (
        pytest.raises(SeamError, match=r"blocks.0.attn2 makes 2 attention calls .* not 1.*calls={'blocks.0.attn2': 2}"),
        attend(model, parse("clean"), layout=layout),
    ):
        model(**families.wan_inputs())


def test_a_wrong_count_of_calls_is_an_error():
    model, layout = families.wan(image_keys=False)
    with (
        pytest.raises(SeamError, match=r"blocks.0.attn2 makes 1 attention calls .* not 2"),
        attend(model, parse("clean"), layout=layout, calls=WAN_CALLS),
    ):
        model(**families.wan_inputs(image_keys=0))


def test_every_call_of_a_module_is_a_site_of_the_modules_layer():
    found = sites(families.wan()[0], WAN_CALLS)
    assert [(site.layer, site.name, site.call) for site in found] == [
        (layer, f"blocks.{layer}.{name}", call)
        for layer in range(2)
        for name, call in (("attn1", 0), ("attn2", 0), ("attn2#1", 1))
    ]
    assert [site.index for site in found] == list(range(6))


@pytest.mark.parametrize(("spec", "calls"), [("sink-k2", range(6)), ("sink-k2@layers=1", range(3, 6))])
def test_both_calls_of_a_module_are_acted_on_as_their_layer_says(spec, calls):
    # expected: the same model in float64, every call written out densely (tests/oracles/dense.py)
    model, layout = families.wan()
    double = families.wan()[0].double()
    with dense.Densely(_without_heaviest(2, calls)) as reference:
        expected = double(**_doubled(families.wan_inputs())).sample
    assert reference.calls == 6
    stock = model(**families.wan_inputs()).sample
    with attend(model, parse(spec), layout=layout, calls=WAN_CALLS):
        actual = model(**families.wan_inputs()).sample
    assert dense.relative(actual, expected) < 1e-5 < 1e-2 < dense.relative(stock, expected)


def test_a_clean_lane_of_a_module_of_two_calls_is_bit_identical_to_the_stock_model():
    model, layout = families.wan()
    with attend(model, parse("clean"), layout=layout, calls=WAN_CALLS):
        assert torch.equal(model(**families.wan_inputs()).sample, families.wan()[0](**families.wan_inputs()).sample)


def test_records_have_an_entry_for_each_call_and_one_for_each_layer():
    model, layout = families.wan()
    names, masses = [], []

    def watch(site, call):
        names.append(site.name)
        masses.append(dense.weights(call.query, call.key).mean((1, 2)))

    with attend(model, parse("clean"), layout=layout, calls=WAN_CALLS, record=("mass",), watch=watch) as recorder:
        model(**families.wan_inputs())
        by_site = recorder.take("site")["mass_layer"]
        model(**families.wan_inputs())
        by_layer = recorder.take()["mass_layer"]
    assert names == 2 * [site.name for site in recorder.sites]
    assert by_site.shape == (1, 1, 2, 6, 6 + families.WAN_TEXT)
    for site, mass in enumerate(masses[:6]):  # image keys stand for text ones here: there are as many
        part = by_site[0, 0, :, site, :6] if site % 3 == 0 else by_site[0, 0, :, site, 6:]
        assert dense.relative(part, mass) < 1e-5
    assert by_layer.shape == (1, 1, 2, 2, 6 + families.WAN_TEXT)
    assert torch.equal(by_layer[..., :6], by_site[..., [0, 3], :6])
    assert torch.equal(by_layer[..., 6:], by_site[..., [1, 4], 6:])


def test_nested_contexts_know_which_of_two_calls_they_answer():
    # the inner removal of one key in the second block, the outer one of another count in the first
    model, layout = families.wan()
    double = families.wan()[0].double()
    first, second = _without_heaviest(3, range(3)), _without_heaviest(2, range(3, 6))
    with dense.Densely(lambda number, *rest: (first if number < 3 else second)(number, *rest)):
        expected = double(**_doubled(families.wan_inputs())).sample
    seen = []
    with (
        attend(model, parse("sink-k3@layers=0"), layout=layout, calls=WAN_CALLS),
        attend(
            model,
            parse("sink-k2@layers=1"),
            layout=layout,
            calls=WAN_CALLS,
            watch=lambda site, _: seen.append(site.name),
        ) as inner,
    ):
        assert dense.relative(model(**families.wan_inputs()).sample, expected) < 1e-5
    assert seen == [site.name for site in inner.sites]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calls": {"blocks.0.attn3": 2}}, r"calls: 'blocks.0.attn3': .* no such module .*'blocks.0.attn"),
        ({"calls": {"blocks.0.attn2": 0}}, "one call or more"),
        ({"unreachable": ["blocks.7.attn1"]}, r"unreachable: 'blocks.7.attn1'"),
    ],
)
def test_a_declaration_that_fits_no_module_is_refused_with_one_that_does(changes, message):
    model, layout = families.wan()
    with pytest.raises(SpecError, match=message), attend(model, parse("clean"), layout=layout, **changes):
        pass


def test_linear_attention_is_an_error_that_says_how_to_declare_it():
    model, layout = families.sana()
    with (
        pytest.raises(SeamError, match=r"transformer_blocks.0.attn1 .* 0 times.*unreachable=\['transformer_blocks.0"),
        attend(model, parse("clean"), layout=layout),
    ):
        model(**families.sana_inputs())


def test_declared_linear_attention_is_left_alone_and_kept_apart():
    # expected: keys removed densely in float64 from the cross attention alone
    model, layout = families.sana()
    stock = model(**families.sana_inputs()).sample
    with attend(model, parse("clean"), layout=layout, unreachable=LINEAR) as recorder:
        assert torch.equal(model(**families.sana_inputs()).sample, stock)
    assert [site.name for site in recorder.unreachable] == LINEAR
    assert [site.name for site in recorder.sites] == [f"transformer_blocks.{block}.attn2" for block in range(2)]
    with attend(model, parse("full"), layout=layout, unreachable=LINEAR):
        assert dense.relative(model(**families.sana_inputs()).sample, stock) < 1e-6
    double = families.sana()[0].double()
    with dense.Densely(_without_heaviest(2, range(2))):
        expected = double(**_doubled(families.sana_inputs())).sample
    with attend(model, parse("sink-k2@keys=text"), layout=layout, unreachable=LINEAR):
        actual = model(**families.sana_inputs()).sample
    assert dense.relative(actual, expected) < 1e-5 < 1e-2 < dense.relative(stock, expected)


@pytest.mark.parametrize(
    ("spec", "instead"),
    [
        ("R1S2", r"cross attention \(transformer_blocks.0.attn2\) can \(for example sink-k5@keys=text"),
        ("sink-k2", r"for example sink-k2@keys=text\)"),
        ("random-k1@keys=image;layers=1", r"for example random-k1@keys=text;layers=1|layers=1;keys=text"),
    ],
)
def test_specs_that_act_on_declared_attention_are_refused_with_what_can_be_done(spec, instead):
    model, layout = families.sana()
    refused = pytest.raises(SpecError, match=r"transformer_blocks.\d.attn1.* is no softmax call.*" + instead)
    with refused, attend(model, parse(spec), layout=layout, unreachable=LINEAR):
        pass
    with attend(model, parse("clean"), layout=layout, unreachable=LINEAR) as recorder, refused:
        recorder.begin(0, 4, parse(spec))


def test_layers_that_can_be_reached_are_named():
    model, layout = families.flux()
    lost = "transformer_blocks.1.attn"
    with (
        pytest.raises(SpecError, match=r"in layers 0,2 it can \(for example R1S2@layers=0,2\)"),
        attend(model, parse("R1S2"), layout=layout, unreachable=[lost]),
    ):
        pass


class Linear(torch.nn.Module):
    """Attention without softmax, of a class that is not known."""

    def forward(self, x, **_):
        return x @ (x.transpose(-1, -2) @ x)


def test_a_layer_of_which_nothing_is_reached_keeps_its_number_and_is_missing_in_records():
    model, layout = models.vit(depth=3)
    model.blocks[1].attn = Linear()
    with attend(model, parse("clean"), layout=layout, unreachable=["blocks.1.attn"], record=("mass",)) as recorder:
        model(models.images())
    assert [(site.layer, site.name) for site in recorder.sites] == [(0, "blocks.0.attn"), (2, "blocks.2.attn")]
    assert [site.layer for site in recorder.unreachable] == [1]
    mass = recorder.take()["mass_layer"]
    assert mass.isnan().all(-1).tolist() == [[[[False, True, False]] * 2]]
