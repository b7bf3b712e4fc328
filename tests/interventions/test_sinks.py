"""Suppressing keys: which ones, by which path, at what dose, against dense float64 attention and closed forms."""

import math

import numpy as np
import pytest
import torch

from interventions.layout import TokenLayout
from interventions.seam.attend import attend, sites
from interventions.seam.draws import Draw
from interventions.seam.sinks import candidates, choose
from interventions.segments import Segment
from interventions.spec import SpecError, parse
from tests.builders import models
from tests.builders.one_call import LAYOUT, heaviest, one_call, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)
IMAGE, TEXT, PREFIX, PADDING = 0, 1, 2, 3


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


# --- what the two paths do to the output ---------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["head", "layer"])
@pytest.mark.parametrize("count", [1, 5])
def test_score_removal_is_attention_without_those_keys_renormalised(count, per):
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    expected = dense.attend(dense.renormalised(attention, ~heaviest(attention, count, per)), tensors[2])
    output, _ = run(f"sink-k{count}" + ("-layer" if per == "layer" else ""), tensors)
    assert dense.relative(output, expected) < 1e-6


@pytest.mark.parametrize("count", [1, 5])
def test_value_path_equals_scaled_score_path(count):
    # the sink paper: value-zero output = (1 - p_sink) * score-removal output, per query
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    p_sink = (attention * heaviest(attention, count)).sum(-1, keepdim=True)
    removed, _ = run(f"sink-k{count}", tensors)
    zeroed, _ = run(f"sink-k{count}-value", tensors)
    assert dense.relative(zeroed, (1 - p_sink) * removed) < 1e-6
    assert dense.relative(zeroed, removed) > 1e-2


@pytest.mark.parametrize("strength", [0.1, 0.75, 0.99])
def test_a_score_dose_scales_the_sinks_probability_and_renormalises_the_rest(strength):
    # the sink paper: the sinks keep (1 - strength) of their probability, the other keys share what is left
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    sink = heaviest(attention, 2).double()
    kept = (1 - strength) * attention * sink
    rest = attention * (1 - sink)
    rest = rest / rest.sum(-1, keepdim=True) * (1 - kept.sum(-1, keepdim=True))
    expected = dense.attend(kept + rest, tensors[2])
    output, _ = run(f"sink-k2@strength={strength}", tensors)
    assert dense.relative(output, expected) < 1e-6


@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize("strength", [0.3, 1])
def test_a_value_dose_moves_values_linearly_to_zero_or_to_the_mean_of_the_others(fill, strength):
    query, key, value = random_call()
    attention = dense.weights(query, key)
    sink = heaviest(attention, 3).transpose(2, 3)
    others = (value * ~sink).sum(2, keepdim=True) / 23
    target = others if fill == "mean" else torch.zeros_like(others)
    moved = torch.where(sink, (1 - strength) * value + strength * target, value)
    output, _ = run(f"sink-k3-value@fill={fill};strength={strength}", (query, key, value))
    assert dense.relative(output, dense.attend(attention, moved)) < 1e-6


@pytest.mark.parametrize("path", ["", "-value"])
def test_a_dose_of_zero_is_bit_identical_to_clean_and_a_dose_of_one_is_the_removal(path):
    tensors = random_call()
    clean, _ = run("clean", tensors)
    none, _ = run(f"sink-k3{path}@strength=0", tensors)
    whole, _ = run(f"sink-k3{path}@strength=1", tensors)
    plain, _ = run(f"sink-k3{path}", tensors)
    assert torch.equal(none, clean)
    assert torch.equal(whole, plain)
    assert not torch.equal(whole, clean)


# --- scope ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "rows"), [("image", slice(0, 20)), ("text", slice(20, 26))])
def test_queries_of_one_kind_find_and_lose_the_sinks_while_the_others_keep_them(queries, rows):
    query, key, value = random_call()
    attention = dense.weights(query, key)
    part = attention[:, :, rows]
    expected = dense.attend(attention, value)
    expected[:, :, rows] = dense.attend(dense.renormalised(part, ~heaviest(part, 2)), value)
    clean, _ = run("clean", (query, key, value))
    output, _ = run(f"sink-k2@queries={queries}", (query, key, value))
    assert dense.relative(output, expected) < 1e-6
    untouched = [i for i in range(26) if not rows.start <= i < rows.stop]
    assert torch.equal(output[:, :, untouched], clean[:, :, untouched])


@pytest.mark.parametrize(("keys", "allowed"), [("image", range(20)), ("text", range(20, 26))])
def test_keys_of_one_kind_are_the_only_candidates(keys, allowed):
    tensors = random_call()
    for kind in ("sink", "random", "bottom"):
        _, taken = run(f"{kind}-k3@keys={keys}", tensors, record=["sinks"])
        assert set(taken["removed_token"].unique().tolist()) <= set(allowed)


def test_sinks_of_the_clean_lane_are_used_by_every_other_lane_of_its_half():
    # rows: 2 halves x 2 lanes x 2 samples, different states in every row
    query, key, value = random_call(rows=8)
    attention = dense.weights(query, key)
    sinks = heaviest(attention, 2)
    clean_of = [0, 1, 0, 1, 4, 5, 4, 5]
    expected = dense.attend(dense.renormalised(attention, ~sinks[clean_of]), value)[[2, 3, 6, 7]]
    lanes = [parse("clean"), parse("sink-k2@source=clean")]
    output, _ = run(lanes, (query, key, value), samples=[0, 1])
    assert dense.relative(output[[2, 3, 6, 7]], expected) < 1e-6
    own, _ = run([parse("clean"), parse("sink-k2")], (query, key, value), samples=[0, 1])
    assert not torch.allclose(own, output)


def test_looking_at_the_clean_lane_without_having_one_is_refused():
    with pytest.raises(SpecError, match="no lane of this batch is clean"):
        run("sink-k2@source=clean", random_call())


def test_steps_act_on_exactly_the_named_ones_also_for_the_next_prompt():
    model = one_call(**dict(zip(("query", "key", "value"), random_call(), strict=True)))
    clean = model()
    with attend(model, parse("sink-k1@steps=1:3"), layout=LAYOUT) as recorder:
        for _prompt in range(2):
            acted = []
            for step in range(4):
                recorder.begin(step, 4)
                acted.append(not torch.equal(model(), clean))
            assert acted == [False, True, True, False]


# --- which keys ----------------------------------------------------------------------------------------------------


def test_bottom_keys_are_those_of_least_mass():
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    least = attention.mean(2).argsort(-1)[..., :3].sort().values
    output, taken = run("bottom-k3", tensors, record=["sinks"])
    assert torch.equal(taken["removed_token"][0, 0, :, 0].sort().values, least)
    kept = torch.ones(3, 2, 1, 26, dtype=torch.bool).scatter_(-1, least.unsqueeze(2), False)
    assert dense.relative(output, dense.attend(dense.renormalised(attention, kept), tensors[2])) < 1e-6


@pytest.mark.parametrize("per", ["", "-layer"])
@pytest.mark.parametrize("draw", ["persistent", "fresh"])
def test_random_keys_match_the_sinks_in_number_and_kind_and_are_never_sinks(draw, per):
    kinds = LAYOUT.kinds()
    for seed in range(5):
        tensors = random_call(rows=4, seed=seed)
        _, sinks = run(f"sink-k4{per}", tensors, record=["sinks"])
        _, random = run(f"random-k4{per}@draw={draw}", tensors, record=["sinks"], seed=seed)
        sinks, random = (x["removed_token"][0, 0, :, 0].numpy() for x in (sinks, random))
        assert random.shape == sinks.shape == (4, 2, 4)
        for sink, control in zip(sinks.reshape(-1, 4), random.reshape(-1, 4), strict=True):
            assert not set(sink) & set(control)
            assert len(set(control)) == 4
            assert sorted(kinds[sink]) == sorted(kinds[control])
        if per:
            assert (random[:, 0] == random[:, 1]).all()


def test_random_keys_replace_words_by_words_and_padding_by_padding():
    padding = torch.zeros(1, 4, 6, dtype=torch.bool)
    padding[0, :, 3:] = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    kinds = np.stack([LAYOUT.kinds()] * 4)
    kinds[:, 20:][padding[0].numpy()] = 3
    met = set()
    for seed in range(8):
        tensors = random_call(rows=4, seed=seed)
        options = {"record": ["sinks"], "samples": range(4), "padding": padding}
        both = (
            run(spec, tensors, **options)[1]["removed_token"][0, 0, :, 0].numpy() for spec in ("sink-k2", "random-k2")
        )
        for row, (sinks, drawn) in enumerate(zip(*both, strict=True)):
            for sink, control in zip(sinks, drawn, strict=True):
                wanted, got = (np.bincount(kinds[row][tokens], minlength=4) for tokens in (sink, control))
                spare = np.bincount(kinds[row], minlength=4) - wanted  # tokens of each kind that are no sinks
                assert (got >= np.minimum(wanted, spare)).all()
                met |= set(np.flatnonzero((wanted > 0) & (spare >= wanted)))
    assert met == {IMAGE, TEXT, 3}


def test_padding_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="1 halves of 3 samples with 6 text tokens"):
        run("random-k1", random_call(), samples=range(3), padding=torch.zeros(2, 3, 6, dtype=torch.bool))


def _draws(spec, rows, steps=1, seed=0, samples=None, mass=None):
    """Tokens [step, row, head, k] chosen for a fixed mass in which the first text tokens are sinks."""
    lane = parse(spec)
    if mass is None:
        mass = torch.zeros(rows, 2, 26) + torch.where(torch.arange(26) == 20, 1.0, 0.0)
    seeds = torch.arange(rows) if samples is None else torch.tensor(samples)
    kinds = candidates(lane, LAYOUT)
    return torch.stack([choose(lane, mass, kinds, Draw(seed, seeds, 3, step)).tokens for step in range(steps)])


def test_a_persistent_draw_stays_over_the_steps_and_a_fresh_one_does_not():
    persistent = _draws("random-k1", rows=50, steps=4)
    assert (persistent == persistent[0]).all()
    fresh = _draws("random-k1@draw=fresh", rows=50, steps=4)
    assert not (fresh == fresh[0]).all()


def test_a_draw_belongs_to_its_sample_not_to_its_place_in_the_batch():
    whole = _draws("random-k1", rows=6)
    apart = _draws("random-k1", rows=2, samples=[4, 1])
    assert torch.equal(apart[0], whole[0][[4, 1]])
    assert not torch.equal(_draws("random-k1", rows=50), _draws("random-k1", rows=50, seed=1))


def test_random_keys_are_uniform_over_the_tokens_of_the_kind():
    # chi-square of 4000 draws over the 5 text tokens that are not the sink; 99.99% quantile for 4 degrees of freedom
    drawn = _draws("random-k1", rows=2000).flatten().numpy()
    counts = np.bincount(drawn, minlength=26)
    assert counts[:21].sum() == 0
    assert ((counts[21:] - 800) ** 2 / 800).sum() < 23.5


def test_where_a_kind_has_no_other_token_the_control_takes_one_of_another_kind():
    layout = TokenLayout((3, 3), prefix=1)  # the class token is the sink and the only token of its kind
    lane = parse("random-k1")
    mass = torch.zeros(5, 1, 10).index_fill_(2, torch.tensor([0]), 1.0)
    drawn = choose(lane, mass, candidates(lane, layout), Draw(0, torch.arange(5), 0, 0)).tokens
    assert drawn.shape == (5, 1, 1)
    assert bool((drawn > 0).all())


# --- words and padding ---------------------------------------------------------------------------------------------

WORDS = [1, 3, 6]  # of the six text tokens of each row


def _told():
    """Padding [half, sample, text] of rows with so many words, and what the tokens of each row are [row, key]."""
    padding = torch.arange(6) >= torch.tensor(WORDS)[:, None]
    kinds = torch.cat([torch.full((3, 20), IMAGE), torch.where(padding, PADDING, TEXT)], dim=1)
    return padding[None], kinds


def _heaviest_of(kinds, kind, count, mass):
    """Bool [rows, heads, 1, keys]: the keys of most mass of a kind, as many as a row has, found one by one."""
    chosen = torch.zeros_like(mass, dtype=torch.bool)
    for row, head in np.ndindex(*mass.shape[:2]):
        own = [key for key in range(26) if kinds[row, key] == kind]
        for key in sorted(own, key=lambda key: -float(mass[row, head, key]))[:count]:
            chosen[row, head, key] = True
    return chosen.unsqueeze(2)


@pytest.mark.parametrize(("keys", "kind"), [("word", 1), ("padding", 3)])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("path", ["", "-value"])
def test_words_and_padding_are_removed_row_by_row_and_as_many_as_there_are(keys, kind, count, path):
    query, key, value = random_call()
    padding, kinds = _told()
    attention = dense.weights(query, key)
    gone = _heaviest_of(kinds, kind, count, attention.mean(2))
    if path:
        others = (value * ~gone.mT).sum(2, keepdim=True) / (~gone.mT).sum(2, keepdim=True)
        expected = dense.attend(attention, torch.where(gone.mT, others, value))
    else:
        expected = dense.attend(dense.renormalised(attention, ~gone), value)
    spec = f"sink-k{count}{path}@keys={keys}" + (";fill=mean" if path else "")
    output, taken = run(spec, (query, key, value), samples=[0, 1, 2], padding=padding, record=["sinks"])
    assert dense.relative(output, expected) < 1e-6
    removed = taken["removed_token"][0, 0, :, 0]
    available = torch.tensor(WORDS if keys == "word" else [6 - count for count in WORDS])
    assert torch.equal((removed >= 0).sum(-1), available.clamp(max=count)[:, None].expand(3, 2))
    assert torch.equal(taken["removed_mass"].isnan(), taken["removed_token"] < 0)


@pytest.mark.parametrize(("keys", "kind"), [("word", 1), ("padding", 3)])
def test_random_words_and_random_padding_are_of_their_kind_and_never_the_sinks(keys, kind):
    padding, kinds = _told()
    tensors = random_call()
    sinks = _heaviest_of(kinds, kind, 2, dense.weights(*tensors[:2]).mean(2)).squeeze(2)
    _, taken = run(f"random-k2@keys={keys}", tensors, samples=[0, 1, 2], padding=padding, record=["sinks"])
    removed = taken["removed_token"][0, 0, :, 0]
    for row, count in enumerate(WORDS if keys == "word" else [6 - count for count in WORDS]):
        for head in range(2):
            drawn = [int(token) for token in removed[row, head] if token >= 0]
            assert len(drawn) == min(2, max(count - 2, 0))
            assert all(kinds[row, token] == kind and not sinks[row, head, token] for token in drawn)


@pytest.mark.parametrize("keys", ["word", "padding"])
def test_words_and_padding_that_nothing_tells_apart_are_refused(keys):
    with pytest.raises(SpecError, match=rf"sink-k1@keys={keys}: .*does not say.*for example keys=text"):
        run(f"sink-k1@keys={keys}", random_call())
    with pytest.raises(SpecError, match=f"the model has no {keys} tokens"):
        parse(f"sink-k1@keys={keys}").check(TokenLayout((4, 5)))
    with pytest.raises(SpecError, match=r"queries=padding: it is one of all, image, text, prefix"):
        parse("sink-k1@queries=padding")


def test_padding_that_the_layout_marks_is_known_without_the_prompts():
    tensors = random_call()
    layout = TokenLayout.of(Segment("image", grid=(4, 5)), Segment("text", 2), Segment("padding", 4))
    gone = heaviest(dense.weights(*tensors[:2])[..., 22:], 2)
    keep = ~torch.cat([torch.zeros(3, 2, 1, 22, dtype=torch.bool), gone], dim=-1)
    output, _ = run("sink-k2@keys=padding", tensors, layout=layout)
    assert (
        dense.relative(output, dense.attend(dense.renormalised(dense.weights(*tensors[:2]), keep), tensors[2])) < 1e-6
    )


TOO_MANY = [("sink-k26", 25), ("random-k14", 13), ("bottom-k7@keys=text", 6), ("sink-k26-value", 25)]


@pytest.mark.parametrize(("spec", "most"), TOO_MANY)
def test_more_keys_than_the_model_has_are_refused_before_it_runs(spec, most):
    model = one_call(query=None, key=None, value=None)
    with (
        pytest.raises(SpecError, match=rf"there are .*for example (sink|random|bottom)-k{most}\)"),
        attend(model, parse(spec), layout=LAYOUT),
    ):
        pass


@pytest.mark.parametrize(("spec", "most"), TOO_MANY)
def test_more_keys_than_a_smaller_call_can_spare_are_refused_by_that_call(spec, most):
    level = TokenLayout((4, 5), text=6)
    layout = TokenLayout.of(*TokenLayout((8, 10), text=12).segments, calls={(26, 26): (level, level)})
    with pytest.raises(SpecError, match=f"an attention call has 26 keys, of which at most {most} "):
        run(spec, random_call(), layout=layout)


@pytest.mark.parametrize("shut", [None, -math.inf, -10000.0])
def test_a_query_keeps_its_keys_where_the_models_own_mask_leaves_only_suppressed_ones(shut):
    """`shut`: what the model adds to a key that is not there, None for a boolean mask; PixArt adds -10000."""
    # a causal row 0 sees token 0 alone; token 0 is the sink of a causal model
    layout, causal = TokenLayout((1, 9)), torch.ones(9, 9, dtype=torch.bool).tril()
    query, key, value = random_call(tokens=9)
    key[:, :, 0] = query.mean(2) * 3
    attention = dense.weights(query, key, causal)
    keep = ~heaviest(attention, 1).expand(-1, -1, 9, -1).clone()
    alone = ((attention * keep).sum(-1, keepdim=True) == 0).expand_as(keep)
    assert bool(alone.any())
    expected = dense.attend(dense.renormalised(attention, keep | alone), value)
    mask = causal if shut is None else torch.zeros(9, 9).masked_fill(~causal, shut)
    output, _ = run("sink-k1", (query, key, value), mask=mask, layout=layout)
    assert dense.relative(output, expected) < 1e-6


# --- whole models --------------------------------------------------------------------------------------------------


def _removal_edit(count, layout):
    def edit(_, attention, value):
        return dense.attend(dense.renormalised(attention, ~heaviest(attention, count)), value)

    return edit


@pytest.mark.parametrize("name", ["sd3", "sd3.5", "sdxl"])
def test_removal_in_every_call_of_a_model_equals_the_dense_model(name):
    build = {"sd3": models.sd3, "sd3.5": lambda: models.sd3(dual=True), "sdxl": models.sdxl}[name]
    inputs = models.sdxl_inputs() if name == "sdxl" else models.sd3_inputs()
    model, layout = build()
    model = model.double()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    expected = dense.densify(model, _removal_edit(2, layout))(**inputs).sample
    with attend(model, parse("sink-k2"), layout=layout, record=["sinks"]) as recorder:
        output = model(**inputs).sample
        taken = recorder.take(per="site")
    assert dense.relative(output, expected) < 1e-6
    assert bool((taken["removed_token"] >= 0).any(-1).any(-1).all())  # every site removed something
    assert taken["removed_token"].shape[3] == len(sites(model))


def test_a_dose_on_one_of_two_equal_keys_leaves_it_that_share_of_its_half():
    # closed form on two keys of probability 1/2: dose a on the first leaves it (1 - a) / 2
    query, key = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    value = torch.tensor([[1.0], [0.0]]).expand(1, 1, 2, 4)
    key[..., 0, 0], query[..., 0] = 1e-4, 1.0  # the first key is the sink by a hair
    output, _ = run("sink-k1@strength=0.75", (query, key, value), layout=TokenLayout((1, 2)))
    assert float(output[0, 0, 0, 0]) == pytest.approx(0.25 / 2, abs=1e-4)
    assert math.isfinite(float(output.sum()))
