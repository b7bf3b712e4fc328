"""What arms cost: multiply-adds against closed forms, counts against hooks, seconds against a clock that is wound."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from analysis.common import costs
from interventions import parse
from interventions.changes.base import At
from tests.builders.changing import changing, doubled_bias, empty, every_second
from tracer import cost
from tracer.arithmetic import multiply_adds
from tracer.plan import plan
from tracer.request import Request

SETTINGS = {"record": "norms,finals", "floor": False, "samples": 3, "steps": 6, "sampler": "ddim", "progress": False}


def run_of(path, arms, denoiser=None, **settings):
    denoiser = changing() if denoiser is None else denoiser
    return tracer.open_run(tracer.trace(denoiser, arms, out=path / "run", **(SETTINGS | settings)))


def costs_of(run):
    """Name -> [arm, step] of what was measured, of the first sample."""
    return {
        name: run["cost"][name].transpose("arm", "step", "sample").values[..., 0] for name in ("seconds", "arithmetic")
    }


# --- multiply-adds ---


def test_a_linear_layer_multiplies_rows_by_inputs_by_outputs():
    assert multiply_adds(lambda: nn.Linear(8, 16)(torch.zeros(3, 5, 8))) == (3 * 5 * 8 * 16, "")


@pytest.mark.parametrize("mask", [None, torch.zeros(10, 7)])
def test_attention_multiplies_queries_by_keys_by_channels_twice(mask):
    """2 samples x 4 heads, 10 queries, 7 keys, 6 channels; once for logits and once for values."""
    query, key = torch.zeros(2, 4, 10, 6), torch.zeros(2, 4, 7, 6)
    found = multiply_adds(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask))
    assert found == (2 * (2 * 4) * 10 * 7 * 6, "")


def test_a_convolution_multiplies_pixels_by_channels_by_its_kernel():
    found = multiply_adds(lambda: nn.Conv2d(3, 4, 3, padding=1)(torch.zeros(2, 3, 8, 8)))
    assert found == (2 * 64 * 4 * 3 * 9, "")


def test_integers_multiply_like_any_number():
    one, two = torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 24, dtype=torch.int8)
    assert multiply_adds(lambda: torch._int_mm(one, two)) == (32 * 16 * 24, "")


def test_elementwise_work_is_no_multiply_add():
    x = torch.ones(2, 4, 8, 8)
    assert multiply_adds(lambda: F.softmax(F.interpolate(x, scale_factor=2, mode="bilinear") * x.sum(), -1)) == (0, "")


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (lambda: torch.dot(torch.ones(3), torch.ones(3)), "aten.dot"),
        (lambda: torch.cdist(torch.ones(3, 4), torch.ones(5, 4)), "aten._cdist_forward"),
        (lambda: torch.ops.tests_cost.product(torch.ones(3, 3)), "tests_cost.product"),
    ],
)
def test_what_has_no_formula_is_missing_and_named(forward, named):
    found, why = multiply_adds(lambda: nn.Linear(3, 3)(torch.ones(3, 3)) + forward().sum())
    assert found is None
    assert named in why


@torch.library.custom_op("tests_cost::product", mutates_args=())
def _product(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def test_counting_that_fails_is_missing():
    assert multiply_adds(lambda: torch.ones(2, 3) @ torch.ones(2, 3))[0] is None


# --- evaluations by count ---


@pytest.mark.parametrize(
    "spec", ["cache2", "cache3@layers=1-3", "reuse@steps=1,3;layers=0-2", "reuse@steps=2:4", "int8"]
)
def test_the_count_of_a_change_is_what_hooks_on_the_blocks_count(spec):
    change, denoiser = parse(spec), tracer.load("dit")
    blocks, ran, memory = denoiser.model.transformer_blocks, [], {}
    handles = [block.attn1.register_forward_hook(lambda *_: ran.append(1)) for block in blocks]
    try:
        for i in range(5):
            ran.clear()
            if i in change.window(5):
                with torch.no_grad(), change.around(denoiser.model, memory, At(i, 5)):
                    denoiser._forward(torch.ones(1, *denoiser.shape), 500, torch.zeros(1, dtype=torch.long))
                expected = change.cost(At(i, 5), denoiser.layers)
                assert len(ran) == pytest.approx(expected * len(blocks)), (spec, i)
    finally:
        for handle in handles:
            handle.remove()


def test_counts_of_windows_doses_masks_and_unknown_caches():
    arms = [
        "steps3", tracer.arm("held", context=every_second), tracer.arm("patch", context=doubled_bias),
        tracer.arm("patch", context=doubled_bias).at(strength=0.5, steps=(2, 4)),
    ]  # fmt: skip
    counted = cost.evaluations(plan(Request(changing(), arms, **(SETTINGS | {"progress": None}))))
    expected = [[1] * 6, [1, 0, 1, 0, 1, 0], [np.nan] * 6, [1] * 6, [1, 1, 2, 2, 1, 1]]
    np.testing.assert_array_equal(counted, expected)


# --- what is measured ---


@pytest.fixture
def wound(monkeypatch):
    """A clock that only a network winds: one second a forward."""
    denoiser = changing()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(denoiser.model.forwards))
    return denoiser


def test_seconds_are_those_of_the_arms_own_call_beside_a_clean_one(tmp_path, wound):
    arms = [tracer.arm("held", context=every_second), "steps3", tracer.arm("patch", context=empty).at(steps=(0, 2))]
    run = run_of(tmp_path, arms, wound, record="norms,finals,decomposition,replay")
    clean, held, fewer, patch = costs_of(run)["seconds"]
    np.testing.assert_array_equal(clean, 1)
    np.testing.assert_array_equal(held, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(fewer, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(patch, 1)
    found = costs.of_arms(run)
    assert float(found["cost"].sel(arm="held", kind="time", bound="estimate")) == 0.5
    assert found["calls"].sel(arm=["held", "steps3", "patch@steps=0:2"]).values.tolist() == [3, 3, 6]


def test_a_dose_takes_the_clean_call_too_and_a_mask_is_not_timed(tmp_path, wound):
    run = run_of(tmp_path, [tracer.arm("patch", context=doubled_bias).at(strength=0.5)], wound)
    np.testing.assert_array_equal(costs_of(run)["seconds"], [[1] * 6, [2] * 6])


def test_only_the_first_unit_is_measured_and_batches_of_it_add_up(tmp_path, wound):
    run = run_of(tmp_path, [tracer.arm("patch", context=doubled_bias)], wound, batch_size=2)
    seconds = run["cost/seconds"].transpose("sample", ...).values
    np.testing.assert_array_equal(seconds[:2], 1)
    assert np.isnan(seconds[2]).all()
    wound.most = 1
    with pytest.warns(UserWarning, match="out of memory"):
        halved = run_of(tmp_path / "halved", [tracer.arm("patch", context=doubled_bias)], wound)
    np.testing.assert_array_equal(costs_of(halved)["seconds"], 3)  # a call for each of three samples


@contextmanager
def drawing(network):
    """A change that draws from torch's own generator."""
    hook = network.register_forward_hook(lambda module, given, out: out + 0.01 * torch.randn_like(out))
    yield
    hook.remove()


def test_measuring_changes_no_bit_of_the_run(tmp_path, monkeypatch):
    """Caches, changes that draw, doses: with the meter and without, whatever is counted once more."""
    arms = [
        tracer.arm("held", context=every_second), tracer.arm("drawing", context=drawing),
        tracer.arm("drawing", context=drawing).at(strength=0.5), "steps3",
    ]  # fmt: skip
    settings = {"record": "norms,latents,decomposition,replay,cost"}
    torch.manual_seed(0)
    measured = run_of(tmp_path / "measured", arms, **settings)
    monkeypatch.setattr("tracer.unit.meter", lambda plan, samples: None)
    torch.manual_seed(0)
    alone = run_of(tmp_path / "alone", arms, **settings)
    assert np.isfinite(measured["cost/seconds"]).any()
    assert np.isnan(alone["cost/seconds"]).all()
    for name in ("metrics", "trajectory", "decomposition"):
        for path, values in measured[name].to_dataset().data_vars.items():
            np.testing.assert_array_equal(values, alone[name][path], err_msg=str(path))


def test_a_context_of_the_users_is_not_entered_once_more_unless_costs_are_asked_for(tmp_path):
    entered = []

    def counting(network):
        entered.append(1)
        return empty(network)

    arms = [tracer.arm("counting", context=counting)]
    run_of(tmp_path / "default", arms)
    assert len(entered) == 6
    run_of(tmp_path / "asked", arms, record="norms,cost")
    assert len(entered) == 6 + 6 + 1  # it is counted once: it remembers nothing


def test_arithmetic_of_the_embedded_dit_is_known_and_halved_by_a_cache(tmp_path):
    """Multiply-adds by hand: attention and feed-forward of every block, by their sizes; the cache leaves the rest."""
    denoiser = tracer.load("dit")
    run = run_of(tmp_path, ["cache2", "int8"], denoiser, samples=1, steps=2, guidance=1.0, record="norms")
    clean, cached, whole = costs_of(run)["arithmetic"]
    config, tokens = denoiser.model.config, denoiser.layout.size
    width = config.num_attention_heads * config.attention_head_dim
    blocks = config.num_layers * (tokens * 4 * width**2 + 2 * tokens**2 * width + 2 * tokens * width * 4 * width)
    assert clean[0] == clean[1] == cached[0] == whole[0]
    assert 0 <= clean[0] - blocks < 0.1 * blocks  # patches, modulation and the projection at the end
    assert clean[1] - cached[1] >= blocks
    assert costs.of_arms(run)["cost"].sel(arm="int8", kind="arithmetic", bound="estimate") == 1


def test_costs_come_by_themselves_with_a_change_and_not_with_a_mask():
    for arms, recorded in ((["cache2"], True), (["steps2"], True), (["R4S32"], False)):
        made = plan(Request("dit", arms, steps=4, record="norms"))
        assert ("cost" in made.record) == recorded
    assert "cost" in plan(Request("dit", ["R4S32"], steps=4, record="norms,cost")).record
    assert "cost" not in plan(Request("dit", ["R4S32"], steps=4, record="all")).record
