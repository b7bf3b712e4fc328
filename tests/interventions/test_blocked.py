"""The output of attention in blocks against a dense float64 softmax; its mass and entropy are in test_mass.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from interventions import attend, parse
from interventions.seam.blocked import attention
from tests.builders import models
from tests.interventions.test_mass import MASKS, _case, shapes
from tests.oracles import dense

torch.set_num_threads(1)


def _value(shape, width, dtype=torch.float32, seed=1):
    batch, heads, _, keys, _ = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, keys, heads, width, generator=generator).to(dtype).transpose(1, 2)


def _four(mask):
    return None if mask is None else mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))


def _expected(query, key, value, mask):
    return dense.weights(query, key, mask) @ value.double()


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 40), st.sampled_from(MASKS), st.integers(0, 10**6))
def test_the_output_is_the_dense_softmax_times_the_values(shape, width, kind, seed):
    query, key, mask = _case(shape, kind, seed=seed)
    value = _value(shape, width)
    answer = attention(query, key, value, _four(mask), 1 / math.sqrt(shape[-1]))
    assert answer.output.dtype == torch.float32
    assert float((answer.output - _expected(query, key, value, mask)).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float64, 0)])
def test_other_types_are_rounded_once_at_the_end(kind, dtype, tolerance):
    shape = (2, 3, 70, 50, 24)
    query, key, mask = _case(shape, kind, dtype)
    value = _value(shape, 16, dtype)
    output = attention(query, key, value, _four(mask), 1 / math.sqrt(24)).output
    expected = _expected(query, key, value, mask)
    assert output.dtype == dtype
    assert bool(((output - expected).abs() <= tolerance * expected.abs() + 1e-5).all())


@pytest.mark.parametrize("buffer", [1, 2**15, 2**21])
def test_it_does_not_matter_how_queries_and_heads_are_cut(buffer, monkeypatch):
    monkeypatch.setattr("interventions.seam.blocked._BUFFER_BYTES", buffer)
    shape = (3, 2, 130, 90, 8)
    query, key, mask = _case(shape, "per head")
    value = _value(shape, 12)
    output = attention(query, key, value, mask, 1 / math.sqrt(8)).output
    assert float((output - _expected(query, key, value, mask)).abs().max()) < 1e-5


def test_a_query_without_any_key_has_output_zero_and_memory_lies_as_in_torch():
    shape = (2, 3, 20, 20, 8)
    query, key, mask = _case(shape, "boolean")
    value = _value(shape, 8)
    mask[4] = False
    output = attention(query, key, value, _four(mask), 1 / math.sqrt(8)).output
    assert bool((output[:, :, 4] == 0).all())
    assert output.stride() == F.scaled_dot_product_attention(query, key, value).stride()


@pytest.mark.parametrize(
    "lane", ["full", "R1S2", "R1S2@strength=0.4", "sink-k2", "sink-k2@strength=0.5", "sink-k2-value"]
)
@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_what_is_recorded_changes_no_result_and_the_kernel_rounding_only(name, lane):
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")(4)
    lanes, outputs = [parse("clean"), parse(lane)], []
    with torch.no_grad():
        for record in ((), ("mass",), ("mass-per-head", "entropy", "sinks")):
            with attend(model, lanes, layout=layout, samples=[3, 4], record=record):
                outputs.append(model(**inputs).sample)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    with attend(model, lanes, layout=layout, samples=[3, 4]):  # with gradients torch's own kernel answers
        torch_kernel = model(**inputs).sample.detach()
    assert dense.relative(outputs[0], torch_kernel) < 2e-6
