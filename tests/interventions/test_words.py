"""Attention that image tokens pay to text tokens, as the seam records it, against dense float64 attention."""

import numpy as np
import pytest
import torch

from interventions.layout import TokenLayout
from interventions.records import Words, words_in
from interventions.seam import blocked
from interventions.seam.attend import attend
from interventions.seam.calls import Call
from interventions.seam.words import attention_to
from interventions.spec import SpecError, parse
from tests.builders import families, models
from tests.builders.one_call import LAYOUT, heaviest, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)
IMAGE, TEXT = slice(0, 20), slice(20, 26)  # of LAYOUT


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def told(taken):
    """[row, image, text] of a call whose rows are one lane's."""
    return taken["word_map"][0, 0].mT.double()


def near(actual, expected):
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_it_is_the_slice_of_the_dense_matrix_and_the_rest_of_it_makes_one(mask):
    tensors, drawn = random_call(), torch.randn(3, 1, 26, 26, generator=torch.Generator().manual_seed(1))
    given = {None: None, "bool": (drawn > -1) | torch.eye(26, dtype=torch.bool), "float": drawn}[mask]
    attention = dense.weights(*tensors[:2], given).mean(1)
    paid = told(run("clean", tensors, mask=given, record=["words"])[1])
    near(paid, attention[:, IMAGE, TEXT])
    near(paid.sum(-1) + attention[:, IMAGE, IMAGE].sum(-1), torch.ones(3, 20, dtype=torch.float64))


@pytest.mark.parametrize("spec", ["sink-k2", "sink-k2@keys=text", "sink-k2@queries=image", "sink-k2@queries=text"])
def test_a_removed_key_is_paid_nothing_and_the_others_share_it(spec):
    tensors = random_call()
    attention = dense.weights(*tensors[:2])
    looked = attention[:, :, TEXT if "queries=text" in spec else IMAGE if "queries" in spec else slice(None)]
    mass = looked.mean(2)
    if "keys" in spec:
        mass[..., IMAGE] = -1
    ranks = mass.argsort(-1, descending=True).argsort(-1)
    after = dense.renormalised(attention, ~(ranks < 2).unsqueeze(2))
    expected = attention if "queries=text" in spec else after
    near(told(run(spec, tensors, record=["words"])[1]), expected.mean(1)[:, IMAGE, TEXT])


def test_a_graph_and_a_dose_of_one_change_what_is_left_for_the_text():
    tensors, spec = random_call(), parse("R1S2")
    mask = torch.from_numpy(spec.mask(LAYOUT, 0))
    attention = dense.weights(*tensors[:2])
    expected = dense.renormalised(attention, mask).mean(1)[:, IMAGE, TEXT]
    near(told(run("R1S2", tensors, record=["words"])[1]), expected)
    scaled = torch.where(mask, 1.0, 0.6)
    expected = dense.renormalised(attention, scaled).mean(1)[:, IMAGE, TEXT]
    near(told(run("R1S2@strength=0.4", tensors, record=["words"])[1]), expected)


def test_the_value_path_leaves_the_attention_as_it_is():
    tensors = random_call()
    expected = dense.weights(*tensors[:2]).mean(1)[:, IMAGE, TEXT]
    near(told(run("sink-k2-value", tensors, record=["words"])[1]), expected)


def test_lanes_halves_and_samples_come_back_in_their_places_whatever_the_batch():
    query, key, value = random_call(rows=12)
    lanes = [parse("clean"), parse("sink-k2"), parse("R1S2")]
    taken = run(lanes, (query, key, value), samples=[5, 6], record=["words"])[1]["word_map"]
    assert taken.shape == (2, 3, 2, 6, 20)
    mask = torch.from_numpy(parse("R1S2").mask(LAYOUT, 0))
    attention = dense.weights(query, key)
    edited = {0: attention, 1: dense.renormalised(attention, ~heaviest(attention, 2))}
    edited[2] = dense.renormalised(attention, mask)
    for row in range(12):
        half, lane, sample = np.unravel_index(row, (2, 3, 2))
        near(taken[half, lane, sample].mT, edited[lane].mean(1)[row, IMAGE, TEXT])
    half = run(lanes, (query, key, value), samples=[5, 6], record=["words"], half=-1)[1]["word_map"]
    assert torch.equal(half[0], taken[1])
    alone = run("sink-k2", tuple(part[9:10] for part in (query, key, value)), samples=[6], record=["words"])[1]
    torch.testing.assert_close(alone["word_map"][0, 0, 0], taken[1, 1, 1], atol=1e-7, rtol=1e-5)


def test_what_else_is_recorded_is_the_same_beside_it_and_the_output_too():
    tensors = random_call()
    for spec in ("clean", "sink-k2", "R1S2"):
        plain, recorded = run(spec, tensors, record=["mass", "entropy", "sinks"])
        output, beside = run(spec, tensors, record=["mass", "entropy", "sinks", "words"])
        assert torch.equal(plain, output)
        assert torch.equal(run(spec, tensors, record=["words"])[0], run(spec, tensors)[0])
        for name, value in recorded.items():
            torch.testing.assert_close(beside[name], value, equal_nan=True, atol=0, rtol=0)


def test_with_the_log_sum_exp_of_the_kernel_it_is_the_same():
    """What a GPU's kernel hands over; computed here in float64. A query that may see nothing pays nothing."""
    query, key, value = random_call()
    mask = torch.randn(3, 1, 26, 26, generator=torch.Generator().manual_seed(1))
    mask[:, :, 4] = -torch.inf
    scores = torch.einsum("...qd,...kd->...qk", query.double(), key.double()) / 8**0.5 + mask.double()
    call, keys = Call(query, key, value, mask), torch.tensor([3, 20, 25])
    paid = attention_to(call, keys, torch.logsumexp(scores, -1).float())
    near(paid, torch.softmax(scores, -1).nan_to_num(0.0).mean(1)[..., keys])
    torch.testing.assert_close(paid, attention_to(call, keys), atol=1e-6, rtol=1e-5)


def test_no_more_than_a_block_of_queries_is_held_by_all_keys(monkeypatch):
    tensors = random_call(rows=1)
    whole = told(run("clean", tensors, record=["words"])[1])
    monkeypatch.setattr(blocked, "_BUFFER_BYTES", 4 * 26 * 3)  # three queries
    torch.testing.assert_close(told(run("clean", tensors, record=["words"])[1]), whole, atol=1e-7, rtol=1e-5)


def seen(model, inputs, layout, **options):
    """What was recorded of a forward, and its calls as they were made."""
    calls = []
    keep = options.pop("keep", lambda site: True)

    def watch(site, call):
        if keep(site):
            calls.append((site, call))

    with attend(model, parse("clean"), layout=layout, record=["words"], watch=watch, **options) as recorder:
        model(**inputs)
        return recorder.take()["word_map"][0, 0].mT, calls


def mean_of(calls, image, text):
    parts = [dense.weights(call.query, call.key, call.attn_mask).mean(1)[:, image, text] for _, call in calls]
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize("dual", [False, True])
def test_of_joint_attention_it_is_the_mean_over_heads_and_blocks(dual):
    """SD3.5's second attention is of the image alone: it has no words and does not count."""
    model, layout = models.sd3(dual=dual)
    paid, calls = seen(model, models.sd3_inputs(), layout, keep=lambda site: not site.name.endswith("attn2"))
    near(paid, mean_of(calls, slice(0, 36), slice(36, 43)))


def test_of_flux_whose_text_stands_first_single_blocks_count_too():
    model, layout = families.flux()
    paid, calls = seen(model, families.flux_inputs(), layout)
    assert len(calls) == 3
    near(paid, mean_of(calls, slice(5, 17), slice(0, 5)))


def test_of_a_unet_the_cross_attention_counts_brought_to_one_grid():
    """Levels of 8 x 8 and 4 x 4: a coarse query stands for the four tokens that it covers. All of it goes to text."""
    model, layout = models.sdxl()
    paid, calls = seen(model, models.sdxl_inputs(), layout, keep=lambda site: site.cross)
    parts = []
    for _, call in calls:
        attention = dense.weights(call.query, call.key).mean(1)
        side = int(attention.shape[1] ** 0.5)
        grid = attention.unflatten(1, (side, side))
        parts.append(grid.repeat_interleave(8 // side, 1).repeat_interleave(8 // side, 2).flatten(1, 2))
    assert {part.shape[1] for part in parts} == {64}
    near(paid, torch.stack(parts).mean(0))
    near(paid.sum(-1), torch.ones(2, 64, dtype=torch.float64))


def test_some_layers_and_steps_alone():
    model, layout = models.sd3()
    record = str(Words(steps=(1, 3), layers=(0, 2)))
    assert (record, words_in(["mass", record])) == ("words@steps=1,3;layers=0,2", Words((1, 3), (0, 2)))
    calls = []
    watch = lambda site, call: calls.append((site, call))  # noqa: E731
    with attend(model, parse("clean"), layout=layout, record=[record], watch=watch) as recorder:
        for step in range(4):
            calls.clear()
            recorder.begin(step, 4)
            model(**models.sd3_inputs())
            taken = recorder.take()
            assert ("word_map" in taken) == (step in (1, 3))
        near(taken["word_map"][0, 0].mT, mean_of([calls[0], calls[2]], slice(0, 36), slice(36, 43)))


def test_a_model_without_text_has_nothing_to_record_and_nonsense_is_refused():
    model, layout = models.dit()
    with attend(model, parse("clean"), layout=layout, record=["words"]) as recorder:
        model(**models.dit_inputs())
        assert recorder.take() == {}
    for wrong in ("words@steps", "words@when=3", "words@steps=x"):
        with pytest.raises(SpecError, match="words@steps=0,4;layers=2,3"):
            run("clean", random_call(), record=[wrong])


def test_words_beyond_those_of_the_layout_are_left_out():
    model, _ = models.sd3()
    layout = TokenLayout((6, 6), text=7)
    inputs = models.sd3_inputs()
    short = TokenLayout.of(*TokenLayout((6, 6), text=5).segments, elastic=True)
    paid, _ = seen(model, inputs, short)
    whole, _ = seen(model, inputs, layout)
    assert paid.shape[-1] == 5
    assert torch.equal(paid, whole[..., :5])
