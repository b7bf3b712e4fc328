"""Arms that change the network of a pipeline: held against the pipeline's own call under the same change."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig

import tracer
from interventions import SeamError, SpecError
from interventions.changes.base import At
from interventions.seam.wrapping import replaced_forward
from tests.zoo import ZOO
from tracer.denoisers.pipeline.hooks import denoisers, replaced
from tracer.denoisers.pipeline.pictures import pictures


def made(name, **changes):
    pipe, call = ZOO[name].make()
    pipe.set_progress_bar_config(disable=True)
    return tracer.from_pipeline(pipe, **{**call, **changes})


@pytest.fixture(scope="module")
def sd3():
    return made("sd3")


@pytest.fixture(scope="module")
def wan():
    """Two networks, one after the other, and two forwards in each step."""
    return made("wan22")


@pytest.fixture(scope="module")
def flux():
    return made("flux1")


def traced(denoiser, path, *arms, record="latents,decomposition", **how):
    how = {"samples": 2, "batch_size": 2, "progress": False, "floor": False, **how}
    return tracer.open_run(tracer.trace(denoiser, list(arms), record=record, out=path / "run", **how))


def plain(denoiser, **changes):
    """Final state of the pipeline's own call, nothing of this project in it."""
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    arguments = {**denoiser.asked.arguments, "generator": generators, "output_type": "latent", **changes}
    with torch.no_grad():
        return denoiser.pipe(**arguments)[0]


def ends(denoiser, run, arm):
    """Final state of an arm, in the pipeline's own form."""
    final = run["trajectory/latent"].values[:, -1] + run["trajectory/delta"].sel(arm=arm).values[:, -1]
    return denoiser.packed(torch.from_numpy(final).reshape(len(final), *denoiser.shape))


def close(one, other, rounding=2e-6):
    """But for what is rounded where a state is stored as the clean one and a difference."""
    np.testing.assert_allclose(one, other, atol=rounding * float(np.abs(other).max()))


def changed(run, arm):
    return float(np.abs(run["trajectory/delta"].sel(arm=arm)).max())


def blocks(network):
    return getattr(network, "transformer_blocks", None) or network.blocks


@contextmanager
def tilted(network, by=0.02) -> Iterator[None]:
    """A patch: what the first block gives is a little more."""
    handle = blocks(network)[0].register_forward_hook(
        lambda _, args, output: (
            tuple((1 + by) * each for each in output) if isinstance(output, tuple) else (1 + by) * output
        )
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def empty(network) -> Iterator[None]:
    yield


@contextmanager
def every_second(network, memory, at) -> Iterator[None]:
    """A cache: in odd steps the last block gives what it gave, if it gave anything."""
    block = blocks(network)[-1]
    stock = block.forward

    def forward(*args, **kwargs):
        if at.step % 2 == 0 or not memory:
            memory["gave"] = stock(*args, **kwargs)
        return memory["gave"]

    with replaced_forward(block, forward):
        yield


EMPTY, TILTED, CACHE = (
    tracer.arm(name, context=each) for name, each in (("empty", empty), ("tilted", tilted), ("cache", every_second))
)


CALLS = {"sd3": 1, "flux": 1, "wan": 2}
"""Forwards in a step."""


@contextmanager
def by_hand(denoiser, calls, enter, window=range(99)) -> Iterator[None]:
    """The pipeline's own call under a context: one memory for each network and forward of a step, nothing else."""
    memories, asked = {}, []

    def entering(network, stock):
        def forward(*args, **kwargs):
            step, call = divmod(len(asked), calls)
            asked.append(network)
            memory = memories.setdefault((id(network), call), {})
            context = (
                enter(network, memory, At(step, denoiser.schedule.steps, call)) if step in window else nullcontext()
            )
            with replaced(network, "forward", stock), context:
                return network(*args, **kwargs)

        return forward

    with ExitStack() as stack:
        for network in denoisers(denoiser.pipe):
            stack.enter_context(replaced(network, "forward", entering(network, network.forward)))
        yield


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_an_empty_context_is_no_error_bit_for_bit_and_a_patch_is_the_patched_pipeline(name, request, tmp_path):
    denoiser = request.getfixturevalue(name)
    denoiser.lanes.together = True  # a batch of lanes would round otherwise
    run = traced(denoiser, tmp_path, EMPTY, TILTED)
    denoiser.lanes.together = None
    assert changed(run, "empty") == 0
    assert changed(run, "tilted") > 1e-3
    with by_hand(denoiser, CALLS[name], lambda network, *_: tilted(network)):
        own = plain(denoiser)
    close(ends(denoiser, run, "tilted"), own)
    assert float(run["metrics/closure"].sel(arm="tilted").max()) < 1e-5


@pytest.mark.parametrize(("name", "window"), [("sd3", (1, 4)), ("wan", (0, 4))])
def test_a_cache_has_a_memory_of_its_own_on_each_path_in_each_network_and_forward(name, window, request, tmp_path):
    """G(y) is one uninterrupted call of the pipeline with one memory, whatever else was asked in between."""
    denoiser = request.getfixturevalue(name)
    arm = CACHE.at(steps=window)
    run = traced(denoiser, tmp_path, arm)
    with by_hand(denoiser, CALLS[name], every_second, range(*window)):
        own = plain(denoiser)
    assert changed(run, str(arm)) > 1e-3
    close(ends(denoiser, run, str(arm)), own)
    assert float(run["metrics/closure"].sel(arm=str(arm)).max()) < 1e-5


def test_what_a_cache_adds_at_the_clean_states_has_seen_clean_states_alone(sd3, tmp_path):
    """G(x) is the pipeline's own call, put back on the clean states after every step."""
    run = traced(sd3, tmp_path, CACHE, EMPTY)
    clean = torch.from_numpy(run["trajectory/latent"].values)
    led = []

    def put_back(pipe, step, timestep, tensors):
        led.append(tensors["latents"])
        return {"latents": clean[:, step].reshape(led[-1].shape)}

    with by_hand(sd3, 1, every_second):
        plain(sd3, callback_on_step_end=put_back)
    injected = torch.stack(led, dim=1) - clean.reshape(2, -1, *led[0].shape[1:])
    stored = run["decomposition/injected"].sel(arm="cache").values.reshape(injected.shape)
    assert (stored[:, 1::2] != 0).any()
    close(stored, injected.numpy())
    assert (stored[:, ::2] == 0).all()  # where the cache is filled


def broadcast():
    """As a user of diffusers would write it."""
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, cross_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000), cross_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("blocks",), cross_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: 500,
    )  # fmt: skip


@contextmanager
def enabled(denoiser, config) -> Iterator[None]:
    """The pipeline as it is deployed with a cache of diffusers."""
    for network in denoisers(denoiser.pipe):
        network.enable_cache(config)
    try:
        yield
    finally:
        for network in denoisers(denoiser.pipe):
            network.disable_cache()


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_cache_of_diffusers_is_the_pipeline_with_that_cache_enabled(name, request, tmp_path):
    """Also where diffusers has one state for the two forwards of a step: in Wan's, PAB reuses across guidance."""
    denoiser = request.getfixturevalue(name)
    run = traced(denoiser, tmp_path, "fbc3", "pab2")
    for arm, config in {"fbc3": FirstBlockCacheConfig(threshold=3.0), "pab2": broadcast()}.items():
        with enabled(denoiser, config):
            own = plain(denoiser)
        assert changed(run, arm) > 1e-3
        close(ends(denoiser, run, arm), own)
        assert float(run["metrics/closure"].sel(arm=arm).max()) < 1e-5


def test_a_cache_that_is_enabled_already_is_refused_with_the_arm_to_type(flux):
    with (
        enabled(flux, broadcast()),
        pytest.raises(SeamError, match=r"tracer\.arm\('cached', cache=PyramidAttentionBroadcastConfig"),
    ):
        tracer.from_pipeline(flux.pipe, **flux.asked.arguments)


def test_the_order_of_arms_changes_nothing(sd3, tmp_path):
    one, other = traced(sd3, tmp_path / "one", CACHE, TILTED), traced(sd3, tmp_path / "other", TILTED, CACHE)
    for name in ("trajectory/delta", "decomposition/injected"):
        np.testing.assert_array_equal(one[name].sel(arm="cache"), other[name].sel(arm="cache"))


def test_a_dose_is_a_share_of_what_the_change_does_to_the_answer(sd3, tmp_path):
    """At the clean states the step is linear in the answer, and guidance too."""
    half = TILTED.at(strength=0.5)
    run = traced(sd3, tmp_path, TILTED, half)
    full, share = (run["decomposition/injected"].sel(arm=str(arm)).values for arm in (TILTED, half))
    close(share, full / 2, 1e-4)


def test_nothing_is_known_of_the_attention_of_a_change_and_that_of_others_is_as_without_it(sd3, tmp_path):
    how = {"record": "latents,mass,sinks,entropy"}
    beside = traced(sd3, tmp_path / "beside", TILTED, "R1S0", **how)
    sd3.lanes.together = False
    alone = traced(sd3, tmp_path / "alone", "R1S0", **how)
    sd3.lanes.together = None
    for name in ("attention/mass_layer", "attention/entropy", "attention/sink_mass"):
        assert np.isnan(beside[name].sel(arm="tilted")).all()
        for arm in ("clean", "R1S0"):
            np.testing.assert_array_equal(beside[name].sel(arm=arm), alone[name].sel(arm=arm))
    assert (beside["attention/sink_token"].sel(arm="tilted") == -1).all()


def halved(network):
    """A second network: every other weight of the first."""
    second = copy.deepcopy(network)
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(1.02)
    return second


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_a_second_network_is_the_pipeline_with_that_component(name, request, tmp_path):
    denoiser = request.getfixturevalue(name)
    same, other = tracer.arm("same", model=lambda network: network), tracer.arm("other", model=halved)
    run = traced(denoiser, tmp_path, same, other, record="latents,images")
    assert changed(run, "same") == 0
    parts = {
        each: halved(getattr(denoiser.pipe, each))
        for each in ("transformer", "transformer_2")
        if getattr(denoiser.pipe, each, None) is not None
    }
    with ExitStack() as stack:
        for each, network in parts.items():
            stack.enter_context(replaced_part(denoiser.pipe, each, network))
        own, shown = plain(denoiser), pictures((plain(denoiser, output_type="np"),))
    close(ends(denoiser, run, "other"), own)
    np.testing.assert_array_equal(run["images/image"].sel(arm="other").values, shown)
    assert len(json.loads(run.attrs["config"])["changes"]["other"].split("; ")) == len(parts)


@contextmanager
def replaced_part(pipe, name, network) -> Iterator[None]:
    before = getattr(pipe, name)
    setattr(pipe, name, network)
    try:
        yield
    finally:
        setattr(pipe, name, before)


def test_one_module_for_several_networks_is_refused(wan, tmp_path):
    with pytest.raises(SpecError, match=r"transformer, transformer_2.*a function, which makes one of each"):
        traced(wan, tmp_path, tracer.arm("other", model=halved(wan.model)))


def test_fewer_steps_are_a_coarser_run_where_answers_can_be_held(flux, tmp_path):
    """Euler's method on a flow: FLUX's noise levels of 2 steps are every second one of those of 4."""
    run = traced(flux, tmp_path, "steps2")
    own = plain(flux, num_inference_steps=2)
    assert changed(run, "steps2") > 1e-3
    close(ends(flux, run, "steps2").numpy(), own.numpy())


def test_fewer_steps_are_refused_elsewhere_with_what_to_do(wan, tmp_path):
    with pytest.raises(SpecError, match=r"UniPCMultistepScheduler .*--steps 2"):
        traced(wan, tmp_path, "steps2")
    with pytest.raises(SpecError, match="another scheduler"):
        traced(wan, tmp_path, "sampler-ddim")


def test_costs_of_a_pipeline_are_those_of_all_its_calls_and_networks(wan, tmp_path):
    """Two forwards a step, by one network and then by another; half of the steps are reused."""
    run = traced(wan, tmp_path, tracer.arm("same", context=lambda network: nullcontext()), "cache2", record="norms")
    seconds, counted = (run["cost"][name].isel(sample=0) for name in ("seconds", "arithmetic"))
    clean, cached = counted.sel(arm="clean").values, counted.sel(arm="cache2").values
    assert np.isfinite(seconds).all()
    assert (seconds > 0).all()
    assert (cached[::2] == clean[::2]).all()
    assert (cached[1::2] < 0.5 * clean[1::2]).all()


def test_measuring_costs_changes_no_bit_of_a_pipeline(sd3, tmp_path, monkeypatch):
    measured = traced(sd3, tmp_path / "measured", "cache2", record="latents")
    monkeypatch.setattr("tracer.passed.meter", lambda plan, samples: None)
    alone = traced(sd3, tmp_path / "alone", "cache2", record="latents")
    assert np.isnan(alone["cost/seconds"]).all()
    np.testing.assert_array_equal(measured["trajectory/delta"], alone["trajectory/delta"])
