"""diffusers' caches as changes: exact where they compute everything, equal to `enable_cache`, and gone afterwards."""

import copy
import re

import pytest
import torch
from diffusers import hooks
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

import tracer
from interventions import SpecError, parse
from interventions.changes.base import At
from tests.builders.changed import answer, answers, clean, equal, network_of, parts

STEPS = 6
OF_BLOCKS = {"dit": ("fbc",), "sd3": (), "sd35": (), "sdxl": (), "flux": ("fbc", "magcache")}
OF_ATTENTION = ("pab", "taylorseer", "fastercache")
AMOUNTS = {"pab": 2, "fastercache": 2, "taylorseer": 2, "fbc": 0.9, "magcache": 0.2}
UNKNOWN = {("sdxl", "fastercache")}
EVERY = [(kind, cache) for kind in OF_BLOCKS for cache in AMOUNTS]
WORKS = [(kind, cache) for kind, cache in EVERY if cache in (*OF_ATTENTION, *OF_BLOCKS[kind])]
WORKS = [case for case in WORKS if case not in UNKNOWN]
FAILS = [case for case in EVERY if case not in WORKS]


@pytest.mark.parametrize(("kind", "cache"), WORKS)
def test_it_reuses_something_and_nothing_stays_behind(kind, cache):
    network, inputs = network_of(kind)
    before, want = parts(network), clean(network, inputs, STEPS)
    exact = equal(answers(parse(f"{cache}{AMOUNTS[cache]}"), network, inputs, STEPS), want)
    assert exact[0]
    assert not all(exact)
    assert parts(network) == before
    assert all(equal(clean(network, inputs, STEPS), want))


@pytest.mark.parametrize(("kind", "cache"), [case for case in WORKS if case[1] != "magcache"])
def test_one_that_computes_everything_changes_no_bit(kind, cache):
    network, inputs = network_of(kind)
    spec = parse(f"{cache}{0 if cache == 'fbc' else 1}")
    assert all(equal(answers(spec, network, inputs, STEPS), clean(network, inputs, STEPS)))


def test_mag_cache_skips_at_threshold_0_where_a_ratio_is_1_and_only_there():
    network, inputs = network_of("flux")
    want = clean(network, inputs, STEPS)
    ratios = [1.0, 1.2, 1.1, 1.0, 0.9, 1.1]
    for ratio, skipped in ((1.0, [3]), (1.05, [])):
        config = hooks.MagCacheConfig(0.0, num_inference_steps=STEPS, mag_ratios=[*ratios[:3], ratio, *ratios[4:]])
        exact = equal(answers(tracer.arm("mag", cache=config), network, inputs, STEPS), want)
        assert [step for step in range(STEPS) if not exact[step]] == skipped


@pytest.mark.parametrize("kind", ["dit", "sd3"])
def test_mag_cache_with_measured_ratios_works_on_other_networks(kind, capsys):
    network, inputs = network_of(kind)
    want = clean(network, inputs, STEPS)
    measuring = hooks.MagCacheConfig(calibrate=True, num_inference_steps=STEPS)
    assert all(equal(answers(tracer.arm("measured", cache=measuring), network, inputs, STEPS), want))
    ratios = [float(number) for number in re.findall(r"\d\.\d+", capsys.readouterr().out)]
    assert len(ratios) == STEPS
    config = hooks.MagCacheConfig(0.5, num_inference_steps=STEPS, mag_ratios=ratios)
    exact = equal(answers(tracer.arm("mag", cache=config), network, inputs, STEPS), want)
    assert exact == [True, False, False, False, True, False]  # never more than three skipped in a row


@pytest.mark.parametrize(("kind", "cache"), FAILS)
def test_what_diffusers_cannot_do_is_refused_before_a_forward(kind, cache):
    network, inputs = network_of(kind)
    before = parts(network)
    with pytest.raises(SpecError, match=r"text tokens|ratios of the model|does not take|nothing to do"):
        answers(parse(f"{cache}{AMOUNTS[cache]}"), network, inputs)
    with pytest.raises(SpecError):
        parse(f"{cache}{AMOUNTS[cache]}").fingerprint(network)
    assert parts(network) == before


def by_hand(network, config, inputs):
    """The plain loop with diffusers' own `enable_cache`, left on from step to step."""
    own = copy.deepcopy(network)
    own.enable_cache(config)
    given = []
    for step in range(STEPS):
        with own.cache_context("cond"):
            given.append(answer(own, inputs(step)))
    return given


FLUX = {
    "fbc0.9": hooks.FirstBlockCacheConfig(0.9),
    "magcache0.2": hooks.MagCacheConfig(0.2, num_inference_steps=STEPS, mag_ratios=FLUX_MAG_RATIOS),
    "taylorseer2-o2": hooks.TaylorSeerCacheConfig(2, max_order=2, taylor_factors_dtype=torch.float32),
    "pab3": hooks.PyramidAttentionBroadcastConfig(3, current_timestep_callback=lambda: 500),
}


@pytest.mark.parametrize("spec", FLUX)
def test_it_is_what_enable_cache_does_and_two_paths_do_not_mix(spec):
    network, inputs = network_of("flux")
    paths = {"one": inputs, "two": lambda step: inputs(2 * step + 1)}
    want = {name: by_hand(network, FLUX[spec], own) for name, own in paths.items()}
    change, memories, given = parse(spec), {"one": {}, "two": {}}, {"one": [], "two": []}
    for step in range(STEPS):
        for name, own in paths.items():
            with change.around(network, memories[name], At(step, STEPS)):
                given[name].append(answer(network, own(step)))
        memories = {name: change.forked(memory) for name, memory in memories.items()}
    for name in paths:
        assert all(equal(given[name], want[name])), name
        assert not all(equal(given[name], clean(network, paths[name], STEPS)))


def test_settings_of_the_user_are_an_arm_with_a_fingerprint():
    network, inputs = network_of("flux")
    config = hooks.PyramidAttentionBroadcastConfig(3, spatial_attention_timestep_skip_range=(100, 800))
    arm = tracer.arm("mine", cache=config)
    assert all(equal(answers(arm, network, inputs, STEPS), answers(parse("pab3"), network, inputs, STEPS)))
    assert "spatial_attention_block_skip_range=3" in arm.fingerprint(network)
    late = hooks.PyramidAttentionBroadcastConfig(3, spatial_attention_timestep_skip_range=(301, 800))
    exact = equal(answers(tracer.arm("late", cache=late), network, inputs, STEPS), clean(network, inputs, STEPS))
    assert all(exact)  # the inputs are of timestep 300
    with pytest.raises(SpecError, match="is none of PyramidAttentionBroadcastConfig"):
        answers(tracer.arm("other", cache=At(0, 1)), network, inputs)


def test_layers_are_those_of_attention_modules():
    network, inputs = network_of("sd3")
    runs, hooked = {0: [], 1: [], 2: []}, []
    for layer, block in enumerate(network.transformer_blocks):
        hooked.append(block.attn.to_q.register_forward_hook(lambda *_, layer=layer: runs[layer].append(1)))
    answers(parse("pab2@layers=1"), network, inputs, 4)
    for hook in hooked:
        hook.remove()
    assert {layer: len(times) for layer, times in runs.items()} == {0: 4, 1: 2, 2: 4}
    for spec, words in (
        ("fbc0.1@layers=1", "all blocks together"),
        ("pab0", "1 or more"),
        ("taylorseer", "taylorseer3"),
    ):
        with pytest.raises(SpecError, match=words):
            parse(spec)
