"""A mask acts on the image wherever it stands: text first, registers, video; a layout of a wrong order is refused."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from interventions import SeamError, Segment, SpecError, TokenLayout, attend, parse
from interventions.seam.sinks import candidates
from interventions.seam.tokens import positions, spread
from tests.builders import families, models
from tests.builders.one_call import heaviest, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)

PREFIX, IMAGE, TEXT = Segment("prefix", 3), Segment("image", grid=(3, 4)), Segment("text", 6)
AROUND = (Segment("text", 2), IMAGE, PREFIX, Segment("text", 4))  # text on both sides
FIRST = TokenLayout.of(TEXT, Segment("image", grid=(4, 5)))


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _doubled(inputs):
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}


def _masked(mask):
    """Dense meaning of a mask [query, key] in every call."""
    return lambda number, attention, value: dense.attend(dense.renormalised(attention, mask), value)


# --- whole models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["R1S2", "K4N2", "D0.5A1"])
def test_flux_is_masked_on_its_image_tokens_which_come_after_the_text(spec):
    # expected: every call answered densely in float64, the graph in the rows and columns behind the 5 text tokens
    model, layout = families.flux()
    model, inputs = model.double(), _doubled(families.flux_inputs())
    mask = torch.ones(17, 17, dtype=torch.bool)
    mask[5:, 5:] = torch.from_numpy(parse(spec).mask(TokenLayout((3, 4))))
    with dense.Densely(_masked(mask)) as densely:
        expected = model(**inputs).sample
    with attend(model, parse(spec), layout=layout):
        output = model(**inputs).sample
    assert densely.calls == 3
    assert dense.relative(output, expected) < 1e-7  # tables of rotary angles pass through float32
    assert dense.relative(output, model(**inputs).sample) > 0.01


def test_a_video_after_its_text_is_masked_by_distance_over_frames_rows_and_columns():
    # expected: dense float64, the ball by scipy's distance between (frame, y, x)
    model, layout = families.cogvideox()
    model, inputs = model.double(), _doubled(families.cogvideox_inputs())
    cells = np.stack(np.unravel_index(np.arange(24), (3, 2, 4)), axis=1)
    mask = torch.ones(28, 28, dtype=torch.bool)
    mask[4:, 4:] = torch.from_numpy(cdist(cells, cells, "cityblock") <= 1)
    with dense.Densely(_masked(mask)) as densely:
        expected = model(**inputs).sample
    with attend(model, parse("R1S0"), layout=layout):
        output = model(**inputs).sample
    assert densely.calls == 2
    assert dense.relative(output, expected) < 1e-7


def test_text_keys_of_a_model_that_has_them_first_are_the_first_tokens():
    model, layout = families.flux()
    with attend(model, parse("sink-k2@keys=text"), layout=layout, record=["sinks", "mass"]) as recorder:
        model(**families.flux_inputs())
        taken = recorder.take()
    assert set(taken["removed_token"].unique().tolist()) <= set(range(5))
    torch.testing.assert_close(taken["mass_layer"].sum(-1), torch.ones(1, 1, 2, 3))


# --- a layout of another order than the model's --------------------------------------------------------------------


WRONG = [
    (families.flux, families.flux_inputs, TokenLayout((3, 4), text=5), r"from 5 to 16, the layout says from 0 to 11"),
    (families.cogvideox, families.cogvideox_inputs, TokenLayout((3, 2, 4), text=4), "from 4 to 27, .* from 0 to 23"),
    (models.sd3, models.sd3_inputs, TokenLayout.of(Segment("text", 7), Segment("image", grid=(6, 6))), "from 0 to 35"),
]


@pytest.mark.parametrize(("build", "inputs", "layout", "message"), WRONG)
@pytest.mark.parametrize("spec", ["clean", "R1S0", "sink-k2@keys=text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layout_of_another_order_than_the_model_has_is_refused_and_the_right_one_named(
    build, inputs, layout, message, spec, dtype
):
    model, right = build()
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs().items()}
    with (
        pytest.raises(SpecError, match=message) as refused,
        attend(model.to(dtype), parse(spec), layout=layout),
    ):
        model(**given)
    named = eval(refused.value.example.removeprefix("layout="), {"TokenLayout": TokenLayout, "Segment": Segment})
    assert named == right
    with attend(model, parse(spec), layout=named):
        model(**given)


# --- one call --------------------------------------------------------------------------------------------------------


ORDERS = [*itertools.permutations((PREFIX, IMAGE, TEXT)), AROUND]
SPECS = [
    *["R1S2", "K4N2@strength=0.5", "sink-k3", "sink-k2@keys=text", "sink-k2-value@queries=text;fill=mean"],
    *["bottom-k2@keys=prefix", "sink-k3@queries=image;strength=0.5", "sink-k2@queries=text;keys=image"],
    "sink-k1-layer@queries=prefix",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("segments", ORDERS)
def test_the_order_of_the_tokens_changes_the_order_of_the_answers_alone(segments, spec):
    # expected: the call in the order prefix, image, text, whose answers against dense attention are in other tests;
    # the image keeps its order, text and prefix keep theirs, so the same tokens stand elsewhere
    short, layout = TokenLayout((3, 4), prefix=3, text=6), TokenLayout.of(*segments)
    where = np.argsort(short.kinds(), kind="stable")[np.argsort(np.argsort(layout.kinds(), kind="stable"))]
    tensors = random_call(tokens=21)
    expected, kept = run(spec, tensors, layout=short, record=["mass", "sinks"])
    moved = [x[:, :, where] for x in tensors]
    output, taken = run(spec, moved, layout=layout, record=["mass", "sinks"])
    torch.testing.assert_close(output, expected[:, :, where], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(taken["mass_layer"], kept["mass_layer"][..., where], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(taken["sink_mass"], kept["sink_mass"], rtol=1e-5, atol=1e-6)
    back = torch.from_numpy(where)[taken["removed_token"].clamp(min=0)]
    assert torch.equal(torch.where(taken["removed_token"] < 0, -1, back), kept["removed_token"])


def test_text_queries_before_the_image_lose_the_sinks_and_the_image_keeps_them():
    query, key, value = random_call()
    attention = dense.weights(query, key)
    part = attention[:, :, :6]
    expected = dense.attend(attention, value)
    expected[:, :, :6] = dense.attend(dense.renormalised(part, ~heaviest(part, 2)), value)
    output, _ = run("sink-k2@queries=text", (query, key, value), layout=FIRST)
    assert dense.relative(output, expected) < 1e-6


def test_a_control_replaces_padding_by_padding_where_the_text_comes_first():
    query, key, value = random_call(rows=2)
    key[:, :, 4] = query.mean(2) * 6  # the sink is the padding token 4
    padding = torch.tensor([[[False] * 3 + [True] * 3] * 2])
    _, taken = run("random-k1", (query, key, value), layout=FIRST, samples=[0, 1], padding=padding, record=["sinks"])
    assert set(taken["removed_token"].unique().tolist()) <= {3, 5}


def test_padding_of_the_layout_itself_is_a_kind_of_its_own():
    layout = TokenLayout.of(Segment("image", grid=(4, 5)), Segment("padding", 4), Segment("text", 2))
    kinds = candidates(parse("sink-k2"), layout)
    assert kinds.tolist() == [0] * 20 + [3] * 4 + [1] * 2
    assert (candidates(parse("sink-k1@keys=text"), layout) >= 0).nonzero().flatten().tolist() == [24, 25]


def test_image_queries_alone_are_masked_against_the_image_among_their_keys():
    # a last block that keeps the image only: 20 queries, 26 keys with the text first
    query, key, value = random_call()
    image = TokenLayout((4, 5))
    layout = TokenLayout.of(*FIRST.segments, calls={(20, 26): (image, FIRST)})
    mask = np.ones((20, 26), dtype=bool)
    mask[:, 6:] = parse("R1S2").mask(image)
    expected = dense.attend(dense.renormalised(dense.weights(query[:, :, 6:], key), torch.from_numpy(mask)), value)
    output, _ = run("R1S2", (query[:, :, 6:], key, value), layout=layout)
    assert dense.relative(output, expected) < 1e-6


def test_a_graph_on_two_grids_is_refused():
    query, key, value = random_call()
    pooled = TokenLayout.of(*FIRST.segments, calls={(20, 26): (TokenLayout((5, 4)), FIRST)})
    with pytest.raises(SeamError, match=r"its queries are 5x4 image tokens and its keys 6 text, 4x5 image tokens"):
        run("R1S0", (query[:, :, 6:], key, value), layout=pooled)


# --- levels of a video ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [(3, 2, 3), (2, 2, 3), (1, 2, 3), (3, 8, 12), (6, 8, 12)])
def test_mass_of_a_level_of_a_video_lands_on_the_cells_that_its_keys_cover(level):
    # by hand, cell by cell: a key of a coarser level covers the cells whose corner falls into it, one of a finer level
    # lies in one cell
    layout, call = TokenLayout.of(TEXT, Segment("image", grid=(3, 4, 6))), TokenLayout(level)
    mass = torch.rand(call.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid, expected = (3, 4, 6), np.zeros((3, 4, 6))
    if call.size < 72:
        owner = {
            cell: tuple(c * m // n for c, m, n in zip(cell, level, grid, strict=True)) for cell in np.ndindex(grid)
        }
        for cell, key in owner.items():
            expected[cell] = mass[np.ravel_multi_index(key, level)] / list(owner.values()).count(key)
    else:
        for key in np.ndindex(level):
            cell = tuple(k * n // m for k, m, n in zip(key, level, grid, strict=True))
            expected[cell] += float(mass[np.ravel_multi_index(key, level)])
    found = spread(mass, call, layout)
    np.testing.assert_allclose(found[layout.image], expected.ravel(), rtol=1e-12)
    assert found[:6].isnan().all()
    first = positions(call, layout) - 6
    for key in np.ndindex(level):
        cell = np.unravel_index(int(first[np.ravel_multi_index(key, level)]), grid)
        back = tuple(c * m // n for c, m, n in zip(cell, level, grid, strict=True))
        forth = tuple(k * n // m for k, m, n in zip(key, level, grid, strict=True))
        assert back == key or cell == forth


# --- calls of other lengths ------------------------------------------------------------------------------------------


def test_two_calls_of_the_same_lengths_are_told_apart_by_their_site():
    layout = TokenLayout.of(
        *FIRST.segments,
        calls={(26, 26, "attn"): (TokenLayout((0, 0), text=26),) * 2},
    )
    tensors = random_call()
    output, _ = run("R1S0", tensors, layout=layout)  # a refiner over text alone: no graph
    clean, _ = run("clean", tensors)
    assert torch.equal(output, clean)


@pytest.mark.parametrize("text", [1, 4, 9])
def test_a_prompt_of_another_length_moves_the_image_and_the_graph_with_it(text):
    layout = TokenLayout.of(*FIRST.segments, elastic=True)
    query, key, value = random_call(tokens=20 + text)
    mask = torch.ones(20 + text, 20 + text, dtype=torch.bool)
    mask[text:, text:] = torch.from_numpy(parse("R1S2").mask(TokenLayout((4, 5))))
    expected = dense.attend(dense.renormalised(dense.weights(query, key), mask), value)
    output, taken = run("R1S2", (query, key, value), layout=layout, record=["mass", "sinks"])
    assert dense.relative(output, expected) < 1e-6
    mass = taken["mass_layer"][0, 0, :, 0]
    image = dense.renormalised(dense.weights(query, key), mask).mean((1, 2))[:, text:]
    torch.testing.assert_close(mass[:, 6:].double(), image, rtol=1e-5, atol=1e-6)  # on the cells of the layout
    assert int((~mass[:, :6].isnan()).sum(1)[0]) == min(text, 6)  # a word that the layout lacks has no place
