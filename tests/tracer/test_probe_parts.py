"""The parts of the probe on made-up numbers whose answer is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interventions import Segment, TokenLayout
from tracer.denoisers.pipeline.asking import pattern
from tracer.denoisers.pipeline.grids import grid_of, grids, halved
from tracer.denoisers.pipeline.guidance import conditional, copies_in
from tracer.denoisers.pipeline.layouts import Side, layout_of, pairs_of
from tracer.denoisers.pipeline.movement import Sources
from tracer.denoisers.pipeline.text import retold, reworded, unpooled
from tracer.denoisers.pipeline.unpacking import placed, undecoded

SIZES = (3, 8, 12)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens_of(grid) -> np.ndarray:
    """[3, token] the first cell under every token of a grid of patches, read row by row."""
    cells = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid))
    return cells * np.array([size // side for size, side in zip(SIZES, grid, strict=True)])[:, None]


@pytest.mark.parametrize("grid", [(3, 4, 6), (3, 8, 12), (1, 2, 3), (3, 4, 12), (3, 1, 1)])
def test_tokens_read_row_by_row_give_their_grid(grid):
    assert grid_of(tokens_of(grid), SIZES) == (grid, 1.0)


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 2, 0), (2, 1, 0)])
def test_tokens_read_in_another_order_agree_with_no_grid(axes):
    columns_first = tokens_of((3, 4, 6)).reshape(3, 3, 4, 6).transpose(0, *(axis + 1 for axis in axes)).reshape(3, -1)
    assert grid_of(columns_first, SIZES)[1] < 0.5


def test_a_number_of_tokens_that_no_grid_has_gives_none():
    assert grids(SIZES, 7) == []
    assert grid_of(np.zeros((3, 7), int), SIZES) == (None, 0.0)


@pytest.mark.parametrize(("tokens", "grid"), [(96, (1, 8, 12)), (24, (1, 4, 6)), (6, (1, 2, 3)), (2, (1, 1, 2))])
def test_halving_rounds_up_as_strided_convolutions_do(tokens, grid):
    assert halved(SIZES, tokens) == grid
    assert halved((1, 5, 7), 12) == (1, 3, 4)
    assert halved(SIZES, 7) is None


def one_call(**changes) -> Sources:
    moves = torch.ones(1, 3, dtype=torch.bool)
    same = {"state": moves, "text": ~moves, "alike": ~moves, "source": torch.zeros(3, 1, 3, dtype=torch.int64)}
    return Sources(**{**same, **changes})


@pytest.mark.parametrize(("rows", "grid"), [(96, (3, 1, 1)), (3, (1, 1, 3))])
def test_as_many_tokens_as_frames_are_frames_unless_each_frame_is_a_row(rows, grid):
    """Three tokens in a UNet: three frames at 96 places, or three places in each of 3 frames."""
    sources = one_call(rows=rows)
    (pair,) = pairs_of([("attn", sources, sources)], (3, 8, 12) if rows == 96 else (3, 1, 3), "M", unet=True).values()
    assert pair[0].segments[0].grid == grid


def test_a_text_of_no_fixed_length_may_stand_in_cross_attention_alone():
    image, text = Side((Segment("image", grid=(4, 6)),)), Side((Segment("text", 7),))
    pairs = {("blocks.N.attn1", 24, 24): (image, image), ("blocks.N.attn2", 24, 7): (image, text)}
    calls = [("blocks.0.attn1", 24, 24), ("blocks.0.attn2", 24, 7)]
    shorter = [("blocks.0.attn1", 24, 24), ("blocks.0.attn2", 24, 3)]
    layout = layout_of(image, pairs, [calls, shorter], 0, elastic=True)
    for words in (3, 7, 11):
        queries, keys = layout.for_call(24, words, cross=True, site="blocks.0.attn2")
        assert queries == TokenLayout((4, 6))
        assert keys == TokenLayout((0, 0), text=words)
    assert layout.for_call(24, 24, cross=False, site="blocks.0.attn1") == (TokenLayout((4, 6)),) * 2


def test_sites_of_a_pattern_differ_in_the_numbers_of_their_blocks_alone():
    assert pattern("blocks.0.attn2#1") == pattern("blocks.11.attn2#1") == "blocks.N.attn2#1"
    assert pattern("blocks.0.attn1") != pattern("blocks.0.attn2")
    assert pattern("down_blocks.0.attentions.1.transformer_blocks.0.attn1") == (
        "down_blocks.N.attentions.N.transformer_blocks.N.attn1"
    )


TARGETS = {
    "negative first": lambda u, c: (torch.cat([u, c]), u + 4 * (c - u), (0, 1, 2)),
    "negative last, output negated": lambda u, c: (torch.cat([c, u]), -(c + 3 * (c - u)), (0, 0, 2)),
    "scaled back to the conditional norm": lambda u, c: (
        torch.cat([u, c]), (u + 4 * (c - u)) * c.norm() / (u + 4 * (c - u)).norm(), (0, 1, 2)
    ),
    "learned variance dropped": lambda u, c: (
        torch.cat([torch.cat([u, u * 0 + 7], 1), torch.cat([c, c * 0 - 9], 1)]), u + 4 * (c - u), (0, 1, 2)
    ),
    "a list of samples with an axis of one": lambda u, c: (
        [one[:, None] for one in torch.cat([c, u])], u + 4 * (c - u), (0, 0, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_the_conditional_piece_has_the_largest_weight(case):
    output, target, place = TARGETS[case](drawn(2, 4, 8, 12), drawn(2, 4, 8, 12, seed=1))
    given = (output,) if isinstance(output, list) else SimpleNamespace(sample=output)
    assert conditional([given], target, 2) == place


def test_of_two_calls_the_conditional_one_is_told_whichever_comes_first():
    one, other = drawn(2, 24, 16), drawn(2, 24, 16, seed=1)
    assert conditional([(one,), (other,)], 3 * one - 2 * other, 2) == (0, 0, 1)
    assert conditional([(one,), (other,)], 3 * other - 2 * one, 2) == (1, 0, 1)


def test_perturbed_attention_guidance_has_three_pieces():
    u, c, p = (drawn(2, 4, 8, 8, seed=seed) for seed in range(3))
    assert conditional([(torch.cat([u, c, p]),)], u + 4 * (c - u) + 3 * (c - p), 2) == (0, 1, 3)


def test_a_first_step_without_any_output_takes_the_last_piece():
    assert conditional([(drawn(4, 4, 8, 8),)], torch.zeros(2, 4, 8, 8), 2) == (0, 1, 2)


def test_copies_are_told_by_their_bits():
    start = drawn(2, 4, 8, 8)
    assert copies_in(torch.cat([start, start])) == 2
    assert copies_in(torch.cat([start, start + 1e-6])) == 1
    assert copies_in(start[:1]) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_permutation_is_seen_through_scales_means_and_noise(dtype):
    """Each entry has a scale, of either sign, and a mean of its own; half precision keeps 8 bits."""
    numbers = torch.randperm(3 * 8 * 6, generator=torch.Generator().manual_seed(0))
    scale, mean = drawn(144, seed=1).sign() * (0.5 + drawn(144, seed=2).abs()), drawn(144, seed=3)

    def tail(sample):
        return (sample.flatten(1)[:, numbers] * scale.to(dtype) + mean.to(dtype)).reshape(2, 3, 8, 6)

    found = placed(tail, torch.zeros(2, 24, 6, dtype=dtype))
    assert found.shape == (1, 3, 8, 6)
    assert torch.equal(found.order, numbers)
    sample = drawn(2, 24, 6).to(dtype)
    assert torch.equal(found.canonical(sample).flatten(1), sample.flatten(1)[:, numbers])
    assert torch.equal(found.packed(found.canonical(sample)), sample)


def test_the_tail_is_asked_once_for_each_bit_of_the_states_size_and_twice_more():
    asked = []

    def tail(sample):
        asked.append(1)
        return sample.reshape(1, 4, 8, 8)

    placed(tail, torch.zeros(1, 16, 16))
    assert len(asked) == 8 + 2


@pytest.mark.parametrize(
    "tail",
    [
        lambda sample: None,
        lambda sample: sample[:, :8],
        lambda sample: sample.roll(1, 2) + sample,
        lambda sample: sample * 0,
        lambda sample: sample[:, [0, *range(15)]],
    ],
    ids=["nothing decoded", "a part", "sums", "constant", "one twice"],
)
def test_what_is_no_permutation_is_not_taken_for_one(tail):
    assert placed(tail, torch.zeros(1, 16, 4)) is None


@pytest.mark.parametrize(
    ("call", "shape"),
    [({"height": 32, "width": 48}, (1, 16, 4, 6)), ({}, (1, 16, 1, 24)), ({"height": 10, "width": 7}, (1, 16, 6, 4))],
)
def test_without_a_decoder_tokens_lie_on_the_grid_that_the_call_asks_for(call, shape):
    found = undecoded((24, 16), call)
    assert found.shape == shape
    sample = drawn(2, 24, 16)
    assert torch.equal(found.canonical(sample), sample.transpose(1, 2).reshape(2, *shape[1:]))
    assert torch.equal(found.packed(found.canonical(sample)), sample)


def test_text_is_drawn_anew_and_nothing_else():
    rotary = drawn(5, 8), drawn(5, 8)
    kept = {"timestep": drawn(2), "pooled": drawn(2, 8), "encoder_attention_mask": torch.ones(2, 1, 5)}
    for name, value in kept.items():
        assert retold(name, value) is value
    assert all(new is old for new, old in zip(retold("image_rotary_emb", rotary), rotary, strict=True))
    states, words = drawn(2, 5, 8), torch.arange(6)[None]
    assert ((retold("encoder_hidden_states", states) - states).norm(dim=-1) > states.norm(dim=-1)).all()
    assert ((retold("cap_feats", [states[0]])[0] - states[0]).norm(dim=-1) > states[0].norm(dim=-1)).all()
    assert (retold("input_ids", words) != words).all()


def test_a_text_as_a_whole_stays_as_it_was():
    before, after = {"text_embeds": drawn(2, 8)}, {"text_embeds": drawn(2, 8, seed=1)}
    assert unpooled("added", after, before)["text_embeds"] is before["text_embeds"]
    states = drawn(2, 5, 8, seed=1)
    assert unpooled("encoder_hidden_states", states, drawn(2, 5, 8)) is states


@pytest.mark.parametrize("prompt", ["", "cat", "a red cat on a chair"])
def test_prompts_are_cut_and_repeated_to_a_number_of_words(prompt):
    for words in (1, 300):
        assert len(reworded(prompt, words).split()) == words
        assert reworded([prompt, prompt], words) == [reworded(prompt, words)] * 2
    assert reworded(3, 1) is None
    assert reworded("a red cat", 5) == "a red cat a red"
