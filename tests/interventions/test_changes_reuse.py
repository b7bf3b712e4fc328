"""Caches of our own: against plain loops over the blocks, for every kind of block."""

from collections import Counter

import pytest
import torch
from torch import nn

from interventions import SpecError, TokenLayout, parse
from interventions.changes.base import At
from interventions.changes.reuse import offset
from interventions.network.blocks import blocks
from interventions.seam.sites import sites
from tests.builders.changed import NETWORKS, answer, answers, clean, equal, network_of, parts


def ran(network, change, inputs, steps=6):
    """Block -> the steps in which its attention ran."""
    runs, hooks, now = {}, [], [0]
    for site in sites(network):
        runs[site.name] = []
        hooks.append(site.module.register_forward_hook(lambda *_, name=site.name: runs[name].append(now[0])))

    def told(step):
        now[0] = step
        return inputs(step)

    try:
        answers(change, network, told, steps)
    finally:
        for hook in hooks:
            hook.remove()
    return runs


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_cache_that_computes_every_step_changes_no_bit(kind):
    network, inputs = network_of(kind)
    before = parts(network)
    for spec in ("cache1", "cache1-output"):
        assert all(equal(answers(parse(spec), network, inputs), clean(network, inputs)))
    assert parts(network) == before


CASES = [(kind, "cache3") for kind in NETWORKS] + [("sd35", "cache3-output"), ("flux", "cache2@layers=1")]


@pytest.mark.parametrize(("kind", "spec"), CASES)
def test_reused_blocks_do_not_run(kind, spec):
    network, inputs = network_of(kind)
    change, every = parse(spec), int(spec[5])
    named = {site.name for site in sites(network) if change.scope.layers in (None, (site.layer,))}
    for name, steps in ran(network, change, inputs).items():
        assert steps == [step for step in range(6) if name not in named or step % every == 0], name
    given = answers(change, network, inputs)
    assert equal(given, clean(network, inputs)) == [step % every == 0 for step in range(6)]


def test_on_dit_the_sum_of_all_blocks_is_reused():
    """The cache as docs/notebooks/is-my-cache-additive.ipynb writes it: one sum, added where the blocks stood."""
    network, inputs = network_of("dit")
    first, last = network.transformer_blocks[0], network.transformer_blocks[-1]
    seen = {}
    hooks = [
        first.register_forward_pre_hook(lambda _, given: seen.update(entered=given[0])),
        last.register_forward_hook(lambda _, given, output: seen.update(left=output)),
    ]
    answer(network, inputs(0))
    for hook in hooks:
        hook.remove()
    added = seen["left"] - seen["entered"]
    for block in network.transformer_blocks:
        block.forward = lambda tokens, **_: tokens
    first.forward = lambda tokens, **_: tokens + added
    want = answer(network, inputs(1))
    for block in network.transformer_blocks:
        del block.forward
    given = answers(parse("cache2"), network, inputs, steps=2)[1]
    assert torch.allclose(given, want, atol=1e-5)
    assert (given - answer(network, inputs(1))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_of_two_streams_each_keeps_its_own_residual(kind):
    network, inputs = network_of(kind)
    block = network.transformer_blocks[0]
    kept = {}

    def keep(module, args, kwargs, output):
        kept["text"] = output[0] - kwargs["encoder_hidden_states"]
        kept["image"] = output[1] - kwargs["hidden_states"]

    hook = block.register_forward_hook(keep, with_kwargs=True)
    answer(network, inputs(0))
    hook.remove()
    block.forward = lambda hidden_states, encoder_hidden_states, **_: (
        encoder_hidden_states + kept["text"],
        hidden_states + kept["image"],
    )
    want = answer(network, inputs(1))
    del block.forward
    assert torch.equal(answers(parse("cache2@layers=0"), network, inputs, steps=2)[1], want)


def test_windows_begin_anew():
    cache = parse("cache3@steps=1:9;pause=5:6")
    assert [step for step in cache.window(12) if not cache.reuses(step, 12)] == [1, 4, 6]
    assert [offset(step, (1, 2, 3, 6, 7)) for step in (1, 2, 3, 6, 7)] == [0, 1, 2, 0, 1]


def test_reuse_computes_the_step_before_along():
    network, inputs = network_of("sd3")
    change = parse("reuse@steps=2:4;layers=1")
    assert list(change.window(6)) == [1, 2, 3]
    assert change.extent(6) == range(2, 4)
    name = next(site.name for site in sites(network) if site.layer == 1)
    runs = ran(network, change, inputs)
    assert runs.pop(name) == [0, 1, 4, 5]
    assert all(steps == list(range(6)) for steps in runs.values())
    assert equal(answers(change, network, inputs), clean(network, inputs)) == [True, True, False, False, True, True]
    with pytest.raises(SpecError, match="before step 0"):
        parse("reuse@steps=0:2").check(TokenLayout((6, 6)), layers=3, steps=6)


def test_two_memories_do_not_mix():
    network, inputs = network_of("dit")
    change, alone = parse("cache2"), {}

    def others(step):
        return inputs(step + 10)

    for name, own in (("one", inputs), ("two", others)):
        alone[name] = answers(change, network, own)
    memories, together = {"one": {}, "two": {}}, {"one": [], "two": []}
    for step in range(6):
        for name, own in (("one", inputs), ("two", others)):
            with change.around(network, memories[name], At(step, 6)):
                together[name].append(answer(network, own(step)))
        memories = {name: change.forked(memory) for name, memory in memories.items()}
    assert all(equal(together["one"], alone["one"]))
    assert all(equal(together["two"], alone["two"]))


def test_the_cost_is_the_share_of_blocks_that_run():
    assert [parse("cache2").cost(At(step, 4), 8) for step in range(4)] == [1, 0, 1, 0]
    assert parse("cache2@layers=0-1").cost(At(1, 4), 8) == 0.75
    assert [parse("reuse@steps=2:3;layers=3").cost(At(step, 4), 8) for step in (1, 2)] == [1, 0.875]


@pytest.mark.parametrize("kind", NETWORKS)
def test_layers_are_numbered_as_those_of_the_seam(kind):
    network, _ = network_of(kind)
    found = blocks(network, None, "cache2")
    assert [block.layer for block in found] == sorted({site.layer for site in sites(network)})
    counted = Counter(block.layer for block in found)
    assert set(counted.values()) == {1}
    for block in found:
        modules = set(block.module.modules())
        assert all(site.module in modules for site in block.sites)


def test_what_cannot_be_reused_says_so():
    network, inputs = network_of("dit")
    with pytest.raises(SpecError, match="layer 7 is none"):
        answers(parse("cache2@layers=7"), network, inputs)
    with pytest.raises(SpecError, match="no transformer block"):
        answers(parse("cache2"), nn.Linear(2, 2), inputs)

    class Unknown(type(network.transformer_blocks[0]).__mro__[1]):
        def __init__(self, block):
            super().__init__()
            self.attn1 = block.attn1

        def forward(self, tokens, **_):
            return tokens, tokens

    network.transformer_blocks[0] = Unknown(network.transformer_blocks[0])
    with pytest.raises(SpecError, match="cache2-output"):
        answers(parse("cache2"), network, inputs)
    for spec, words in (("cache0", "1 or more"), ("cache", "number of steps is missing"), ("cache-4", "did you mean")):
        with pytest.raises(SpecError, match=words):
            parse(spec)
