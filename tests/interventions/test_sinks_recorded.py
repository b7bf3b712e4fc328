"""What the seam records of a call: mass, entropy, sinks and removed keys, against dense float64 attention."""

import math

import pytest
import torch

from interventions.layout import TokenLayout
from interventions.seam.attend import attend
from interventions.seam.tokens import laid, positions, spread
from interventions.spec import SpecError, parse
from tests.builders import models
from tests.builders.one_call import heaviest, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_the_record_is_the_attention_as_it_was_paid_and_says_what_was_removed():
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    sink = heaviest(attention, 2)
    after = dense.renormalised(attention, ~sink)
    _, taken = run("sink-k2", tensors, record=["mass", "mass-per-head", "entropy", "sinks"], top=3)
    assert {key: tuple(value.shape) for key, value in taken.items()} == {
        "mass_layer": (1, 1, 3, 1, 26),
        "mass": (1, 1, 3, 1, 2, 26),
        "entropy": (1, 1, 3, 1, 2),
        "sink_token": (1, 1, 3, 1, 2, 3),
        "sink_mass": (1, 1, 3, 1, 2, 3),
        "removed_token": (1, 1, 3, 1, 2, 2),
        "removed_mass": (1, 1, 3, 1, 2, 2),
        "removed_count": (1, 1, 3, 1, 2, 4),
        "removed_together": (1, 1, 3, 1, 2, 4),
        "removed_goal": (1, 1, 3, 1, 2, 4),
    }
    taken = {key: value[0, 0, :, 0] for key, value in taken.items()}
    mass, before = after.mean(2), attention.mean(2)
    torch.testing.assert_close(taken["mass"].double(), mass, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(taken["mass_layer"].double(), mass.mean(1), atol=1e-7, rtol=1e-5)
    entropy = torch.special.entr(after).sum(-1).mean(-1)
    torch.testing.assert_close(taken["entropy"].double(), entropy, atol=1e-5, rtol=1e-5)
    ordered = mass.sort(descending=True)
    assert torch.equal(taken["sink_token"], ordered.indices[..., :3])
    removed = before.sort(descending=True)
    assert torch.equal(taken["removed_token"], removed.indices[..., :2])
    torch.testing.assert_close(taken["removed_mass"].double(), removed.values[..., :2], atol=1e-7, rtol=1e-5)


def test_the_record_of_mixed_queries_is_the_mean_over_all_of_them():
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    part = attention[:, :, :20]
    attention = torch.cat([dense.renormalised(part, ~heaviest(part, 2)), attention[:, :, 20:]], dim=2)
    _, taken = run("sink-k2@queries=image", tensors, record=["mass-per-head"])
    torch.testing.assert_close(taken["mass"][0, 0, :, 0].double(), attention.mean(2), atol=1e-7, rtol=1e-5)


def test_rows_come_back_as_half_lane_and_sample_and_lanes_without_removal_have_no_token():
    query, key, value = random_call(rows=12)
    lanes = [parse("clean"), parse("sink-k2"), parse("random-k3")]
    _, taken = run(lanes, (query, key, value), samples=[5, 6], record=["sinks", "mass"])
    assert taken["mass_layer"].shape == (2, 3, 2, 1, 26)
    clean = dense.weights(query, key).mean(2).mean(1).reshape(2, 3, 2, 26)[:, 0]
    torch.testing.assert_close(taken["mass_layer"][:, 0, :, 0].double(), clean, atol=1e-7, rtol=1e-5)
    removed = taken["removed_token"]
    assert (removed[:, 0] == -1).all()
    assert ((removed[:, 1, ..., :2] >= 0) & (removed[:, 1, ..., 2:] == -1)).all()
    assert (removed[:, 2] >= 0).all()


def test_nothing_is_recorded_unless_asked_and_an_unknown_record_is_refused():
    assert run("sink-k2", random_call())[1] == {}
    with pytest.raises(SpecError, match="record heat"):
        run("clean", random_call(), record=["heat"])


def test_a_unet_records_its_self_attention_on_image_tokens_and_its_cross_attention_on_text_tokens():
    model, layout = models.sdxl()
    with attend(model, parse("clean"), layout=layout, record=["mass", "mass-per-head"]) as recorder:
        model(**models.sdxl_inputs())
        taken = recorder.take()
    mass = taken["mass_layer"]
    assert mass.shape == (1, 1, 2, 11, 64 + 7)
    ones = torch.ones(1, 1, 2, 11)
    torch.testing.assert_close(mass[..., :64].sum(-1), ones)  # also for the blocks that run on the 4 x 4 grid
    torch.testing.assert_close(mass[..., 64:].sum(-1), ones)
    coarse = mass[0, 0, 0, 1, :64].reshape(8, 8)  # 2 x 2 tokens share what their one coarse key receives
    assert torch.equal(coarse, coarse[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_the_queries_of_a_pooling_layer_lose_their_sinks_too():
    model, layout = models.vit(global_pool="map", class_token=False)
    pool = "attn_pool"
    with attend(model, parse("sink-k2"), layout=layout, record=["mass", "sinks"]) as recorder:
        model(models.images())
        taken = recorder.take(per="site")
    assert [site.name for site in recorder.sites][-1] == pool
    assert bool((taken["removed_token"][0, 0, :, -1] >= 0).all())
    torch.testing.assert_close(taken["mass_layer"][0, 0, :, -1].sum(-1), torch.ones(2))


def test_every_site_can_be_taken_by_itself():
    model, layout = models.sd3(dual=True)
    with attend(model, parse("sink-k2"), layout=layout, record=["mass", "sinks"]) as recorder:
        model(**models.sd3_inputs())
        taken = recorder.take(per="site")
    names = [site.name for site in recorder.sites]
    second = names.index("transformer_blocks.0.attn2")
    assert taken["mass_layer"].shape == (1, 1, 2, len(names), 43)
    assert bool(taken["mass_layer"][:, :, :, second, 36:].isnan().all())
    assert bool((taken["removed_token"] >= 0).all())


def test_mass_and_tokens_of_another_resolution_land_on_the_layouts_grid():
    layout = TokenLayout((4, 6), prefix=1, text=2)
    coarse, fine = TokenLayout((2, 3)), TokenLayout((8, 12))
    assert positions(coarse, layout).tolist() == [1, 3, 5, 13, 15, 17]
    on_coarse = spread(torch.arange(1.0, 7.0), coarse, layout)
    assert on_coarse[layout.image].reshape(4, 6)[:2, :2].unique().tolist() == [0.25]
    assert float(on_coarse[layout.image].sum()) == pytest.approx(21)
    on_fine = spread(torch.full((96,), 1 / 96), fine, layout)
    torch.testing.assert_close(on_fine[layout.image], torch.full((24,), 1 / 24))
    assert bool(on_fine[[0, 25, 26]].isnan().all())
    text = spread(torch.tensor([0.3, 0.7]), TokenLayout((0, 0), text=2), layout)
    assert text[25:].tolist() == pytest.approx([0.3, 0.7])
    assert bool(text[:25].isnan().all())


# --- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["clean", "sink-k2"])
def test_what_keys_are_like_is_that_of_the_call_as_it_arrives(spec):
    """Against float64 logits [query, key] of every head, the mean over queries taken last."""
    query, key, value = random_call()
    _, taken = run(spec, (query, key, value), record=["keys"])
    taken = {name: values[0, 0, :, 0].double() for name, values in taken.items()}
    assert set(taken) == {"key_norm", "value_norm", "key_query", "key_cosine"}
    q, k, v = query.double(), key.double(), value.double()
    logits = (q @ k.mT / math.sqrt(8)).mean(2)  # [row, head, key]
    torch.testing.assert_close(taken["key_query"], logits.mean(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(taken["key_norm"], (k**2).sum(-1).sqrt().mean(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(taken["value_norm"], (v**2).sum(-1).sqrt().mean(1), atol=1e-6, rtol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(k, q.mean(2, keepdim=True), dim=-1)
    torch.testing.assert_close(taken["key_cosine"], cosine.mean(1), atol=1e-6, rtol=1e-5)


def test_keys_of_a_zero_query_have_no_angle():
    query, key, value = random_call()
    _, taken = run("clean", (torch.zeros_like(query), key, value), record=["keys"])
    assert not taken["key_cosine"].any()
    assert not taken["key_query"].any()


def test_a_property_of_keys_is_carried_to_another_resolution_and_not_divided():
    layout, coarse, fine = TokenLayout((4, 4), text=2), TokenLayout((2, 2), text=2), TokenLayout((8, 8))
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 7.0, 8.0])
    carried = laid(values, coarse, layout)
    assert carried[:16].reshape(4, 4)[::3, ::3].tolist() == [[1, 2], [3, 4]]
    assert carried[16:].tolist() == [7, 8]
    assert laid(torch.arange(64.0), fine, layout)[0] == (0 + 1 + 8 + 9) / 4
    assert bool(laid(torch.ones(64), fine, layout)[16:].isnan().all())
