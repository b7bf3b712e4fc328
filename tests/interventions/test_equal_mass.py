"""Random keys of the sinks' mass, random keys of any kind, and noise for values: against brute force and float64."""

import numpy as np
import pytest
import torch
from scipy import stats

from interventions.layout import TokenLayout
from interventions.seam.draws import Draw
from interventions.seam.sinks import candidates, choose
from interventions.spec import SpecError, parse
from tests.builders.one_call import LAYOUT, heaviest, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)
SAMPLES = torch.tensor([5, 9, 40])
LONG = TokenLayout((8, 8), text=16)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def some_mass(seed=0, rows=3, heads=2, layout=LONG, contrast=2.0):
    """Mass [rows, heads, keys] that sums to 1, some keys with much of it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(contrast * torch.randn(rows, heads, layout.size, generator=generator), -1)


def drawn(spec, mass, layout=LONG, step=0, site=3):
    """What a spec chooses from a mass, as bool [rows, heads, keys]."""
    lane = parse(spec)
    chosen = choose(lane, mass, candidates(lane, layout), Draw(1, SAMPLES, site, step))
    marked = torch.zeros(mass.shape, dtype=torch.bool)
    return marked.scatter(-1, chosen.tokens, chosen.only(torch.ones_like(chosen.tokens, dtype=torch.bool), False))


def by_hand(mass, kinds, priority, count):
    """The keys of one head, chosen by trying every prefix of the order, in exact Python numbers."""
    allowed = [key for key in range(len(mass)) if kinds[key] >= 0]
    sinks = sorted(allowed, key=lambda key: -mass[key])[:count]
    others = sorted((key for key in allowed if key not in sinks), key=lambda key: -priority[key])

    def nearest(order, goal):
        sums = np.concatenate([[0.0], np.cumsum([mass[key] for key in order])])
        return set(order[: int(np.abs(sums - goal).argmin())])

    first = set()
    for kind in range(4):
        goal = sum(mass[key] for key in sinks if kinds[key] == kind)
        first |= nearest([key for key in others if kinds[key] == kind], goal)
    order = [key for key in others if key in first] + [key for key in others if key not in first]
    return nearest(order, sum(mass[key] for key in sinks))


@pytest.mark.parametrize(("count", "scope", "contrast"), [(1, "", 2), (5, "", 2), (3, "@keys=text", 1), (5, "", 5)])
def test_random_keys_of_equal_mass_are_the_prefix_of_their_order_that_comes_nearest(count, scope, contrast):
    mass = some_mass(contrast=contrast)
    found = drawn(f"random-k{count}-mass{scope}", mass)
    kinds = candidates(parse(f"random-k{count}-mass{scope}"), LONG).tolist()
    priority = Draw(1, SAMPLES, 3, 0).priorities(2, LONG.size, fresh=False).tolist()
    for row in range(3):
        for head in range(2):
            expected = by_hand(mass[row, head].double().tolist(), kinds, priority[row][head], count)
            assert set(found[row, head].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("per", ["", "-layer"])
def test_their_mass_is_that_of_the_sinks_within_half_of_the_largest_key_and_none_is_a_sink(per):
    mass = some_mass(contrast=1.0)
    shown = mass if not per else mass.mean(1, keepdim=True).expand_as(mass)
    for count in (1, 5):
        found, sinks = (drawn(f"{name}{per}", mass) for name in (f"random-k{count}-mass", f"sink-k{count}"))
        assert not (found & sinks).any()
        got, goal, rest = ((shown * keys).sum(-1) for keys in (found, sinks, ~sinks))
        assert ((got - goal).abs() <= (goal - rest).clamp(min=(shown * ~sinks).amax(-1) / 2) + 1e-6).all()
        assert (goal < rest).float().mean() > 0.8  # where the others have enough, and that is the usual case here
        assert not per or torch.equal(found[:, 0], found[:, 1])


def test_where_the_others_have_less_than_the_sinks_all_of_them_are_taken():
    mass = torch.full((3, 2, LONG.size), 0.1 / (LONG.size - 1))
    mass[..., 7] = 0.9
    found = drawn("random-k1-mass", mass)
    assert (found.sum(-1) == LONG.size - 1).all()
    assert not found[..., 7].any()


def test_keys_without_mass_are_passed_over():
    mass = some_mass()
    mass[..., ::2] = 0
    assert not drawn("random-k5-mass", mass)[..., ::2].any()


def test_kinds_come_first_as_far_as_they_reach():
    mass = torch.full((3, 2, LONG.size), 0.004)
    mass[..., 64], mass[..., 3] = 0.02, 0.01  # a word that is worth 5 words, an image token that is worth 2.5
    found = drawn("random-k2-mass", mass)
    assert (found[..., 64:].sum(-1) == 5).all()
    assert ((found[..., :64].sum(-1) - 2.5).abs() <= 0.5).all()


def test_the_set_grows_and_shrinks_along_one_order_and_a_fresh_draw_has_another_each_step():
    mass = some_mass(contrast=0.0) + 0
    mass[..., 7] = 0.05
    later = mass.clone()
    later[..., 7] = 0.2
    few, many = drawn("random-k1-mass", mass, step=0), drawn("random-k1-mass", later, step=9)
    assert few.sum() < many.sum()
    assert not (few & ~many).any()
    assert not (drawn("random-k1", mass) & ~few).any()  # the same order as the control of equal count
    fresh = [drawn("random-k1-mass@draw=fresh", mass, step=step) for step in (0, 1)]
    assert not torch.equal(*fresh)


def test_a_draw_of_equal_mass_belongs_to_its_sample_in_any_batch():
    mass = some_mass()
    lane = parse("random-k5-mass")
    kinds = candidates(lane, LONG)
    whole = choose(lane, mass, kinds, Draw(1, SAMPLES, 3, 0))
    alone = choose(lane, mass[1:2], kinds, Draw(1, SAMPLES[1:2], 3, 0))
    assert torch.equal(whole.tokens[1:2], alone.tokens)
    assert torch.equal(whole.taken[1:2], alone.taken)


# --- what it does to the output ------------------------------------------------------------------------------------


def removed_here(spec, query, key):
    """Bool [rows, heads, 1, keys] of what a spec removes from the one call, from the dense float64 mass."""
    mass = dense.weights(query, key).mean(2)
    lane = parse(spec)
    chosen = choose(lane, mass, candidates(lane, LAYOUT), Draw(0, torch.arange(len(query)), 0, 0))
    marked = torch.zeros(mass.shape, dtype=torch.bool)
    return marked.scatter(-1, chosen.tokens, chosen.taken).unsqueeze(2)


@pytest.mark.parametrize("strength", [1, 0.3])
def test_the_score_path_of_equal_mass_equals_dense_attention_without_those_keys(strength):
    query, key, value = random_call()
    attention = dense.weights(query, key)
    gone = removed_here("random-k5-mass", query, key)
    assert len(set(gone.sum(-1).flatten().tolist())) > 1  # their number differs by row and head
    without = dense.attend(dense.renormalised(attention, ~gone), value)
    expected = (1 - strength) * dense.attend(attention, value) + strength * without
    output, _ = run(f"random-k5-mass@strength={strength}", (query, key, value))
    assert dense.relative(output, expected) < 1e-6


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_the_value_path_of_equal_mass_moves_the_values_of_those_keys_alone(fill):
    query, key, value = random_call()
    gone = removed_here("random-k5-mass", query, key).transpose(2, 3)
    others = (value * ~gone).sum(2, keepdim=True) / (~gone).sum(2, keepdim=True)
    target = others if fill == "mean" else torch.zeros_like(others)
    moved = torch.where(gone, 0.5 * value + 0.5 * target, value)
    output, _ = run(f"random-k5-mass-value@fill={fill};strength=0.5", (query, key, value))
    assert dense.relative(output, dense.attend(dense.weights(query, key), moved)) < 1e-6


def test_lerp_to_the_mean_by_a_half_is_the_value_path_with_fill_mean_at_strength_a_half():
    query, key, value = random_call()
    attention, sink = dense.weights(query, key), heaviest(dense.weights(query, key), 1).transpose(2, 3)
    mean = (value * ~sink).sum(2, keepdim=True) / 25
    output, _ = run("sink-k1-value@fill=mean;strength=0.5", (query, key, value))
    expected = dense.attend(attention, torch.where(sink, torch.lerp(value, mean, 0.5), value))
    assert dense.relative(output, expected) < 1e-6


# --- what is recorded ----------------------------------------------------------------------------------------------


def test_number_and_mass_are_recorded_by_kind_in_place_of_tokens():
    query, key, value = random_call()
    mass = dense.weights(query, key).mean(2)
    gone, sinks = removed_here("random-k5-mass", query, key)[:, :, 0], heaviest(dense.weights(query, key), 5)[:, :, 0]
    _, taken = run("random-k5-mass", (query, key, value), record=["sinks"])
    taken = {name: value[0, 0, :, 0] for name, value in taken.items()}
    assert (taken["removed_token"] == -1).all()
    assert taken["removed_mass"].isnan().all()
    for number, part in ((0, slice(0, 20)), (1, slice(20, 26))):
        assert torch.equal(taken["removed_count"][..., number], gone[..., part].sum(-1))
        for name, of in (("removed_together", gone), ("removed_goal", sinks)):
            torch.testing.assert_close(
                taken[name][..., number].double(), (mass * of)[..., part].sum(-1), atol=1e-6, rtol=1e-5
            )


def test_lanes_of_other_kinds_are_counted_too_and_lanes_without_removal_are_missing():
    lanes = [parse(spec) for spec in ("clean", "sink-k2", "random-k2-mass", "random-k2")]
    _, taken = run(lanes, random_call(rows=8), samples=[0, 1], record=["sinks"])
    count, goal = taken["removed_count"][0, :, :, 0], taken["removed_goal"][0, :, :, 0]
    assert (count[0] == -1).all()
    assert (count[[1, 3]].sum(-1) == 2).all()
    assert goal[[0, 1, 3]].isnan().all()
    assert not goal[2].isnan().any()
    each, together = taken["removed_mass"][0, 1, :, 0], taken["removed_together"][0, 1, :, 0]
    torch.testing.assert_close(each.sum(-1), together.sum(-1))
    assert (taken["removed_token"][0, 3, :, 0] >= 0).all()


# --- any keys ------------------------------------------------------------------------------------------------------


def test_random_keys_of_any_kind_are_uniform_over_all_keys_the_sinks_among_them():
    rows = 4000
    mass = torch.softmax(torch.arange(26.0), -1).expand(rows, 1, 26)
    lane = parse("random-k2-any")
    tokens = choose(lane, mass, candidates(lane, LAYOUT), Draw(0, torch.arange(rows), 0, 0)).tokens
    counts = torch.bincount(tokens.flatten(), minlength=26).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    assert counts[25] > 0  # the key of most mass
    assert (tokens[..., 0] != tokens[..., 1]).all()
    text = parse("random-k2-any@keys=text")
    tokens = choose(text, mass, candidates(text, LAYOUT), Draw(0, torch.arange(rows), 0, 0)).tokens
    assert set(tokens.unique().tolist()) == set(range(20, 26))


@pytest.mark.parametrize(
    ("spec", "most"), [("random-k26-any", 25), ("random-k26-mass", 25), ("random-k9-mass@keys=text", 5)]
)
def test_more_keys_than_there_are_are_refused(spec, most):
    with pytest.raises(SpecError, match=f"random-k{most}"):
        parse(spec).check(LAYOUT)


# --- noise ---------------------------------------------------------------------------------------------------------


def test_noise_in_place_of_values_has_their_mean_and_deviation_and_is_the_same_at_every_step():
    query, key, value = random_call(rows=2, width=64)
    value = 3 * value + torch.arange(64.0)
    sink = heaviest(dense.weights(query, key), 2).transpose(2, 3)
    others = torch.where(sink, float("nan"), value)
    mean, spread = (torch.from_numpy(f(others.numpy(), axis=2, keepdims=True)) for f in (np.nanmean, np.nanstd))
    tokens = sink[..., 0].nonzero()[:, 2].reshape(2, 2, 2)
    noise = Draw(0, torch.arange(2), 0, 0).normal(tokens, 64, fresh=False)
    index = tokens.unsqueeze(-1).expand(-1, -1, -1, 64)
    expected = dense.attend(dense.weights(query, key), value.scatter(2, index, mean + spread * noise))
    output, _ = run("sink-k2-value@fill=noise", (query, key, value))
    assert dense.relative(output, expected) < 1e-6


def test_noise_is_standard_normal_and_belongs_to_sample_site_head_and_token():
    tokens = torch.arange(40).expand(50, 2, 40)
    draw = Draw(0, torch.arange(50), 1, 0)
    values = draw.normal(tokens, 8, fresh=False)
    assert stats.kstest(values.flatten().double(), "norm").pvalue > 1e-3
    flat = values.flatten(0, 1).flatten(1).double()
    assert np.abs(np.corrcoef(flat.numpy())[np.triu_indices(100, 1)]).max() < 0.3  # rows and heads are apart
    assert torch.equal(
        draw.normal(tokens[3:4, :, 5:6], 8, fresh=False)[0, :, 0], draw.normal(tokens, 8, fresh=False)[0, :, 5]
    )
    alone = Draw(0, torch.tensor([3]), 1, 7).normal(tokens[:1, :, 5:6], 8, fresh=False)
    assert torch.equal(alone[0, :, 0], values[3, :, 5])
    assert not torch.equal(
        Draw(0, torch.arange(50), 1, 7).normal(tokens, 8, fresh=True), draw.normal(tokens, 8, fresh=True)
    )
    assert not torch.equal(Draw(0, torch.arange(50), 2, 0).normal(tokens, 8, fresh=False), values)
