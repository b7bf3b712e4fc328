"""Token merging: tomesd's own patch bit for bit where it reaches, and the image tokens alone where it does not."""

import pytest
import torch

from interventions import SpecError, parse
from interventions.changes.base import At
from interventions.seam.sites import sites
from tests.builders.changed import answer, network_of, parts

tomesd = pytest.importorskip("tomesd")


def merged(network, inputs, spec, step=0, call=0):
    with parse(spec).around(network, {}, At(step, 10, call)):
        return answer(network, inputs)


@pytest.mark.parametrize("kind", ["dit", "sdxl"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_it_is_what_tomesd_does(kind, share):
    """At the same draw; tomesd reads the size off the first argument by position, and draws where a batch is even."""
    network, inputs = network_of(kind)
    own = inputs(0)
    first = own.pop(next(iter(own)))
    given = merged(network, inputs(0), f"tome{share}", step=3, call=1)
    tomesd.apply_patch(network, ratio=share, max_downsample=8)
    network._tome_info["args"]["generator"] = torch.Generator().manual_seed(3 * 1024 + 1)
    with torch.no_grad():
        want = network(first, **own).sample
    tomesd.remove_patch(network)
    assert torch.equal(given, want)
    assert (given - answer(network, inputs(0))).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["dit", "sd3", "sd35", "sdxl"])
def test_nothing_merged_changes_no_bit_and_nothing_stays_behind(kind):
    network, inputs = network_of(kind)
    before = parts(network)
    assert torch.equal(merged(network, inputs(0), "tome0"), answer(network, inputs(0)))
    merged(network, inputs(0), "tome0.5")
    with pytest.raises(TypeError):
        merged(network, {"hidden_states": torch.zeros(1, 4, 6, 6), "unknown": 1}, "tome0.5")
    assert parts(network) == before


@pytest.mark.parametrize("kind", ["sd3", "sd35"])
def test_of_a_joint_block_the_image_tokens_are_merged(kind):
    network, inputs = network_of(kind)
    seen = {}
    hooks = [
        site.module.to_q.register_forward_hook(lambda _, given, output, name=site.name: seen.update({name: output}))
        for site in sites(network)
    ]
    texts = network.transformer_blocks[0].attn.add_q_proj.register_forward_hook(
        lambda _, given, output: seen.update(text=output)
    )
    merged(network, inputs(0), "tome0.5@layers=0,2")
    for hook in (*hooks, texts):
        hook.remove()
    assert seen.pop("text").shape[1] == 7
    for site in sites(network):
        assert seen[site.name].shape[1] == (18 if site.layer in (0, 2) else 36)


def test_a_sample_does_not_hang_on_its_batch():
    network, inputs = network_of("sd3")
    both = merged(network, inputs(0), "tome0.5", step=2)
    for k in range(2):
        alone = {name: value[k : k + 1] for name, value in inputs(0).items()}
        assert torch.allclose(merged(network, alone, "tome0.5", step=2)[0], both[k], atol=1e-5)
    assert torch.equal(merged(network, inputs(0), "tome0.5", step=2), both)
    assert not torch.equal(merged(network, inputs(0), "tome0.5", step=3), both)
    assert not torch.equal(merged(network, inputs(0), "tome0.5", step=2, call=1), both)


def test_what_cannot_be_merged_says_so():
    network, inputs = network_of("flux")
    with pytest.raises(SpecError, match="the grid of its tokens is not known"):
        merged(network, inputs(0), "tome0.5")
    for spec, words in (("tome0.8", "one of every 2 x 2 stays"), ("tome", "tome0.5"), ("tome-0.5", "tome0.5")):
        with pytest.raises(SpecError, match=words):
            parse(spec)
