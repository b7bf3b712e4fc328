"""Mass and entropy of attention against a dense float64 softmax (tests/oracles/dense.py), which is never streamed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rows import memory
from interventions.seam.mass import attention_entropy, attention_mass, attention_statistics
from tests.oracles import dense

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
MASKS = ["none", "boolean", "float", "keys", "per head"]


def _case(shape, kind, dtype=torch.float32, seed=0, sharpness=2.0):
    """query, key, mask: strided like a model's (heads split from the channels), a first key that all may see."""
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    query = (normal(batch, queries, heads, width) * sharpness).to(dtype).transpose(1, 2)
    key = normal(batch, keys, heads, width).to(dtype).transpose(1, 2)
    mask = {
        "none": None,
        "boolean": normal(queries, keys) > 0.8,
        "float": normal(queries, keys) * 2,
        "keys": normal(batch, heads, 1, keys).masked_fill(normal(batch, heads, 1, keys) > 1, -math.inf),
        "per head": normal(batch, heads, queries, keys) > 0.8,
    }[kind]
    if mask is not None:
        mask[..., 0] = True if mask.dtype == torch.bool else 0.0
    return query, key, mask


def _dense(query, key, mask=None, scale=None):
    attention = dense.weights(query, key, mask, scale)
    return attention.mean(2), torch.special.entr(attention).sum(-1).mean(-1)


def _relative(actual, expected):
    seen = expected > 1e-30
    assert bool((actual[~seen] == 0).all())
    return float(((actual - expected).abs() / expected.clamp_min(1e-30))[seen].max())


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(MASKS), st.integers(0, 10**6))
def test_mass_is_the_dense_softmax_averaged_over_queries(shape, kind, seed):
    query, key, mask = _case(shape, kind, seed=seed)
    expected, entropy = _dense(query, key, mask)
    mass = attention_mass(query, key, mask)
    assert mass.dtype == torch.float32
    assert _relative(mass, expected) < 1e-5
    torch.testing.assert_close(mass.sum(-1), torch.ones(shape[:2]), atol=2e-6, rtol=0)
    torch.testing.assert_close(attention_entropy(query, key, mask).double(), entropy, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_summed_in_float32_or_better(kind, dtype):
    query, key, mask = _case((2, 3, 70, 50, 24), kind, dtype)
    expected, entropy = _dense(query, key, mask)
    mass, entropies = attention_statistics(query, key, mask)
    assert _relative(mass, expected) < 1e-5  # the issue asks for 1e-2 in bf16
    assert entropies == pytest.approx(entropy, abs=2e-5)


@pytest.mark.parametrize("buffer", [1, 2**15, 2**21, 2**23])  # a query at a time; some; some heads; all heads
@pytest.mark.parametrize("kind", MASKS)
def test_it_does_not_matter_how_queries_and_heads_are_cut(kind, buffer, monkeypatch):
    monkeypatch.setattr("interventions.seam.blocked._BUFFER_BYTES", buffer)
    query, key, mask = _case((2, 3, 430, 390, 8), kind)
    expected, entropy = _dense(query, key, mask)
    mass, entropies = attention_statistics(query, key, mask)
    assert _relative(mass, expected) < 1e-5
    assert entropies == pytest.approx(entropy, abs=3e-5)


def test_a_subset_of_queries_counts_only_those():
    query, key, _ = _case((1, 2, 40, 40, 8), "none")
    expected, _ = _dense(query[:, :, 4:20], key)
    assert _relative(attention_mass(query[:, :, 4:20], key), expected) < 1e-5


def test_a_mask_is_the_same_whatever_its_strides_and_its_broadcast_axes():
    query, key, _ = _case((2, 2, 40, 30, 8), "none")
    mask = torch.randn(30, 40, generator=torch.Generator().manual_seed(1)) > 0
    mask[0] = True
    expected, _ = _dense(query, key, mask.T)
    assert _relative(attention_mass(query, key, mask.T), expected) < 1e-5
    per_query = torch.randn(40, 1)  # one number for a whole row changes nothing in its softmax
    assert _relative(attention_mass(query, key, per_query), _dense(query, key)[0]) < 1e-5


def test_the_scale_is_that_of_the_call():
    query, key, _ = _case((1, 2, 20, 30, 8), "none")
    expected, entropy = _dense(query, key, scale=0.03)
    assert _relative(attention_mass(query, key, scale=0.03), expected) < 1e-5
    assert attention_entropy(query, key, scale=0.03) == pytest.approx(entropy, abs=1e-5)


def test_equal_keys_share_the_mass_and_reach_the_largest_entropy():
    # closed form: uniform attention, mass 1/n, entropy log n
    query, key = torch.randn(1, 1, 5, 4), torch.ones(1, 1, 8, 4)
    mass, entropy = attention_statistics(query, key)
    torch.testing.assert_close(mass, torch.full((1, 1, 8), 1 / 8))
    assert float(entropy) == pytest.approx(math.log(8), abs=1e-6)


def test_a_query_without_any_key_counts_as_zero_and_a_key_without_any_query_gets_zero():
    query, key, mask = _case((1, 2, 10, 12, 8), "boolean")
    mask[3], mask[:, 7] = False, False
    mass, entropy = attention_statistics(query, key, mask)
    rows = [i for i in range(10) if i != 3]
    expected, entropies = _dense(query[:, :, rows], key, mask[rows])
    torch.testing.assert_close(mass.double(), expected * 0.9, atol=1e-7, rtol=1e-5)
    assert bool((mass[..., 7] == 0).all())
    torch.testing.assert_close(entropy.double(), entropies * 0.9, atol=1e-6, rtol=1e-5)


def test_not_a_number_in_a_query_stays_in_its_head():
    query, key, mask = _case((1, 2, 10, 12, 8), "boolean")
    query[0, 1, 4, 2] = math.nan
    for masked in (None, mask):
        mass, entropy = attention_statistics(query, key, masked)
        assert bool(mass[0, 1].isnan().all())
        assert bool(entropy[0, 1].isnan())
        assert bool(mass[0, 0].isfinite().all())


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="equal batch"):
        attention_mass(torch.zeros(1, 2, 3, 4), torch.zeros(2, 2, 3, 4))
    with pytest.raises(ValueError, match="does not broadcast"):
        attention_mass(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4), torch.ones(3, 4))


def test_nothing_of_the_size_of_tokens_squared_is_held():
    # 2 heads of 3000 tokens: two float32 matrices of tokens x tokens are 69 MiB, the inputs 1.1 MiB
    assert memory.in_own_process("mass", False, tokens=3000, heads=2, width=16) < 35


INTERPRETED = """
import json, math, torch
from interventions.seam.mass_triton import statistics
from tests.interventions.test_mass import MASKS, _case, _dense, _relative
torch.set_num_threads(1)
errors = {}
for kind in MASKS:
    query, key, mask = _case((1, 2, 70, 66, 20), kind)
    rows, share = list(range(70)), 1.0
    if kind == "boolean":  # an empty row counts as zero (the dense softmax of it is undefined), a hidden key gets zero
        mask[3], mask[:, 7] = False, False
        rows.remove(3)
        share = 69 / 70
    four = None if mask is None else mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    mass, entropy = statistics(query, key, four, 1 / math.sqrt(20), True)
    partly = mask[rows] if kind == "boolean" else mask
    expected, entropies = (share * x for x in _dense(query[:, :, rows], key, partly))
    errors[kind] = _relative(mass, expected), float((entropy - entropies).abs().max())
    scores = query.double() @ key.double().mT / math.sqrt(20)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    lse = scores.logsumexp(-1).float()
    if kind == "boolean":
        lse[:, :, 3] = math.inf
    if four is not None and four.shape[2] > 1:  # rows stored further apart than they are long: the rest must not count
        apart = torch.full((*four.shape[:3], 80), False if four.dtype == torch.bool else math.nan, dtype=four.dtype)
        apart[..., :66] = four
        four = apart[..., :66]
    again, entropy = statistics(query, key, four, 1 / math.sqrt(20), True, lse)
    errors[kind + ", with its log-sum-exp"] = _relative(again, expected), float((entropy - entropies).abs().max())
print(json.dumps(errors))
"""


def test_the_cuda_kernels_agree_with_dense_in_the_interpreter_of_triton():
    # a process of its own: Triton decides at import whether it compiles or interprets
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert set(errors) == set(MASKS) | {f"{kind}, with its log-sum-exp" for kind in MASKS}
    for mass, entropy in errors.values():
        assert mass < 1e-5
        assert entropy < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)])
def test_the_cuda_kernels_agree_with_dense_on_a_gpu(kind, dtype, tolerance):
    query, key, mask = _case((2, 3, 300, 260, 64), kind, dtype, sharpness=1.0)
    expected, entropy = _dense(query, key, mask)
    mass, entropies = attention_statistics(query.cuda(), key.cuda(), None if mask is None else mask.cuda())
    assert _relative(mass.cpu(), expected) < tolerance
    assert entropies.cpu() == pytest.approx(entropy, abs=10 * tolerance)
