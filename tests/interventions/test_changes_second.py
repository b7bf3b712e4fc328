"""Quantised and half-precision networks: the weights against a formula, and a network in the place of another."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from interventions import SpecError, attend, parse
from interventions.changes.base import At
from interventions.network.second import instead, running, stand_in
from tests.builders import models
from tests.builders.changed import answer, answers, clean, equal, network_of

STEP = At(0, 1)


def rounded(weight, bits, group):
    """Symmetric round-to-nearest in float64, groups of a row: the weights, and how far each lay from a tie."""
    rows = weight.double().numpy().reshape(-1, group or weight.shape[1])
    scale = np.abs(rows).max(1, keepdims=True) / ((2**bits - 1) / 2)
    places = rows / scale
    numbers = np.clip(np.round(places), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    tie = np.abs(np.abs(places - np.floor(places)) - 0.5)
    return (numbers * scale).reshape(weight.shape), tie.reshape(weight.shape)


@pytest.mark.parametrize(
    ("spec", "bits", "group"), [("int8", 8, 0), ("int4", 4, 32), ("int4-g16", 4, 16), ("int3", 3, 32)]
)
def test_quantised_weights_are_those_of_the_formula(spec, bits, group):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 24), nn.LayerNorm(24), nn.Linear(24, 8))
    with parse(spec).around(network, {}, STEP):
        second = running(network)
    for k in (0, 2):
        weight, size = network[k].weight.detach(), network[k].in_features
        want, tie = rounded(weight, bits, group if group and size % group == 0 else 0)
        off = np.abs(second[k].weight.double().numpy() - want)
        assert off[tie > 1e-4].max() < 1e-6
        assert np.abs(want - weight.numpy()).max() > 1e-4
        assert second[k].bias is not network[k].bias
        assert (second[k].bias == network[k].bias).all()


def test_it_computes_what_torchao_computes():
    torchao = pytest.importorskip("torchao.quantization")
    network, inputs = network_of("dit")
    own = copy.deepcopy(network)
    torchao.quantize_(own, torchao.IntxWeightOnlyConfig(weight_dtype=torch.int8))
    (given,) = answers(parse("int8"), network, inputs, steps=1)
    assert (given == answer(own, inputs(0))).all()
    error = (given - answer(network, inputs(0))).norm() / answer(network, inputs(0)).norm()
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("kind", ["dit", "sd3", "flux", "sdxl"])
def test_half_precision_is_the_converted_network(kind):
    network, inputs = network_of(kind)
    given = answers(parse("bf16"), network, inputs, steps=2)
    own = nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    for step in range(2):
        lowered = {
            name: value.bfloat16() if value.is_floating_point() and value.dim() > 1 else value
            for name, value in inputs(step).items()
        }
        want = answer(own, lowered)
        assert want.dtype == torch.bfloat16
        assert given[step].dtype == torch.float32
        assert (given[step] == want.float()).all()
    assert equal(clean(network, inputs, 2), given) == [False, False]


def test_what_stands_in_goes_again_also_after_an_error():
    network, inputs = network_of("dit")
    before, twin = answer(network, inputs(0)), copy.deepcopy(network)
    other = models.trained_looking(copy.deepcopy(network), 1.0)
    with stand_in(network, other):
        assert not (answer(network, inputs(0)) == before).all()
    with pytest.raises(TypeError), stand_in(network, other):
        network(nothing=1)
    assert running(network) is network
    assert "forward" not in vars(network)
    with stand_in(network, twin):
        assert running(network) is twin
        assert (answer(network, inputs(0)) == before).all()


def test_a_network_that_is_copied_under_the_seam_is_a_network_of_its_own():
    network, inputs = network_of("dit")
    layout = models.dit()[1]

    def doubled(first):
        second = copy.deepcopy(first)
        with torch.no_grad():
            second.transformer_blocks[0].ff.net[2].bias += 1
        return second

    want = answer(doubled(network), inputs(0))
    with attend(network, parse("clean"), layout=layout) as recorder:
        answer(network, inputs(0))
        with recorder.aside(), instead(network, "doubled", doubled):
            assert (answer(network, inputs(0)) == want).all()


def test_a_cache_works_on_the_network_that_runs_whichever_is_named_first():
    pytest.importorskip("torchao")
    network, inputs = network_of("sd3")
    with parse("int4").around(network, {}, STEP):
        second = running(network)
    want = answers(parse("cache2"), second, inputs)
    assert all(equal(answers(parse("int4+cache2"), network, inputs), want))
    assert all(equal(answers(parse("cache2+int4"), network, inputs), want))
    both = answers(parse("int4+bf16"), network, inputs, steps=1)
    assert all(equal(both, answers(parse("bf16"), second, inputs, steps=1)))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("int1", "2 to 8 bits"),
        ("int16", "bf16"),
        ("int4.5", "whole"),
        ("int4-g0", "1 or more"),
        ("w8", "did you mean int8"),
    ],
)
def test_widths_that_are_none_are_refused(spec, words):
    with pytest.raises(SpecError, match=words):
        parse(spec)


def test_a_library_that_is_missing_is_named(monkeypatch):
    import sys

    network, _ = network_of("dit")
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(Exception, match=r"pip install 'denoise-trace\[changes\]'"):
        parse("int5").around(network, {}, STEP)
