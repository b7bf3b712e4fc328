"""Claims about token layouts: where tokens lie, and which layout an attention call has."""

import pickle

import numpy as np
import pytest

from interventions import Segment, SpecError, TokenLayout, attend, parse
from interventions.resolution import resolutions
from tests.builders import models


def test_tokens_come_in_the_order_prefix_image_text_with_row_major_coordinates():
    layout = TokenLayout(grid=(2, 3), prefix=1, text=2)
    assert layout.size == 9
    assert layout.kinds().tolist() == [2, 0, 0, 0, 0, 0, 0, 1, 1]
    assert layout.kinds().dtype == np.int8
    token_frame, token_y, token_x = layout.coordinates()
    assert token_frame.tolist() == [-1, 0, 0, 0, 0, 0, 0, -1, -1]
    assert token_y.tolist() == [-1, 0, 0, 0, 1, 1, 1, -1, -1]
    assert token_x.tolist() == [-1, 0, 1, 2, 0, 1, 2, -1, -1]
    assert layout.kinds()[layout.image].tolist() == [0] * 6
    assert [layout.count(kind) for kind in ("image", "text", "prefix", "all")] == [6, 2, 1, 9]


def test_a_call_over_the_whole_sequence_has_the_layout_itself():
    for layout in (TokenLayout((16, 16)), TokenLayout((14, 14), prefix=1), TokenLayout((8, 8), text=10)):
        assert layout.for_call(layout.size, layout.size) == (layout, layout)


def test_the_second_attention_of_a_joint_model_sees_the_image_alone():
    image = TokenLayout((16, 16))
    assert TokenLayout((16, 16), text=77).for_call(256, 256) == (image, image)


@pytest.mark.parametrize(
    ("grid", "tokens", "expected"),
    [
        ((32, 32), 256, (16, 16)),
        ((32, 32), 64, (8, 8)),
        ((16, 16), 1024, (32, 32)),
        ((32, 48), 384, (16, 24)),
        ((15, 9), 40, (8, 5)),  # strided convolutions round up
    ],
)
def test_other_resolutions_of_a_unet_are_the_grid_halved_or_doubled(grid, tokens, expected):
    query, key = TokenLayout(grid, text=77).for_call(tokens, tokens)
    assert query == key == TokenLayout(expected)


def test_cross_attention_has_image_queries_and_text_keys():
    query, key = TokenLayout((32, 32), text=77).for_call(256, 77)
    assert query == TokenLayout((16, 16))
    assert key.kinds().tolist() == [1] * 77


def test_a_call_with_two_readings_must_be_told_apart():
    layout = TokenLayout((16, 16), text=64)  # 64 is also the 8x8 level
    with pytest.raises(SpecError, match="both a resolution"):
        layout.for_call(64, 64)
    assert layout.for_call(64, 64, cross=False) == (TokenLayout((8, 8)), TokenLayout((8, 8)))
    assert layout.for_call(64, 64, cross=True)[1].count("text") == 64


@pytest.mark.parametrize(("n_query", "n_key"), [(255, 255), (256, 76), (77, 77), (100, 256)])
def test_a_call_that_fits_nothing_is_refused(n_query, n_key):
    with pytest.raises(SpecError, match="does not fit"):
        TokenLayout((16, 16), text=77).for_call(n_query, n_key)


@pytest.mark.parametrize(
    "sizes", [{"grid": (0, 4)}, {"grid": (-1, 4)}, {"grid": 16}, {"grid": (4, 4), "text": -1}, {"grid": (0, 0)}]
)
def test_sizes_that_describe_no_sequence_are_refused(sizes):
    with pytest.raises(SpecError, match="for example"):
        TokenLayout(**sizes)


# --- segments in any order, frames ----------------------------------------------------------------------------------

IMAGE = Segment("image", grid=(2, 3))
VIDEO = Segment("image", grid=(4, 2, 3))


def test_segments_stand_in_the_order_they_are_given():
    layout = TokenLayout.of(Segment("prefix", 2), Segment("text", 1), IMAGE, Segment("padding", 1), Segment("text", 2))
    assert layout.kinds().tolist() == [2, 2, 1, 0, 0, 0, 0, 0, 0, 3, 1, 1]
    assert layout.image == slice(3, 9)
    assert layout.runs("text") == (slice(2, 3), slice(10, 12))
    assert layout.runs("all") == (slice(0, 12),)
    counts = [layout.count(kind) for kind in ("image", "text", "prefix", "padding", "all")]
    assert counts == [6, 3, 2, 1, 12]
    assert (layout.image_tokens, layout.text, layout.prefix, layout.size) == (6, 3, 2, 12)
    assert layout.coordinates()[1].tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1, -1, -1, -1]
    assert str(layout) == "2 prefix, 1 text, 2x3 image, 1 padding, 2 text tokens"


def test_the_short_form_is_the_order_prefix_image_text_and_empty_segments_are_no_segments():
    written = TokenLayout.of(Segment("prefix", 1), IMAGE, Segment("text", 4))
    assert written == TokenLayout((2, 3), prefix=1, text=4)
    assert hash(written) == hash(TokenLayout((2, 3), prefix=1, text=4))
    assert TokenLayout.of(Segment("text", 0), IMAGE) == TokenLayout((1, 2, 3)) == TokenLayout((2, 3))
    assert repr(written) == "TokenLayout((2, 3), prefix=1, text=4)"
    assert repr(TokenLayout.of(Segment("padding", 4))) == "TokenLayout.of(4 padding)"


def test_tokens_of_a_video_are_row_major_frame_after_frame():
    layout = TokenLayout.of(Segment("text", 5), VIDEO)
    assert (layout.frames, layout.grid, layout.cells, layout.size) == (4, (2, 3), (4, 2, 3), 29)
    found = np.stack(layout.coordinates(), axis=1)
    assert (found[:5] == -1).all()
    assert (found[5:] == [(frame, y, x) for frame in range(4) for y in range(2) for x in range(3)]).all()
    assert TokenLayout((2, 3)).frames == 1
    assert TokenLayout((2, 3)).cells == (2, 3)


def test_a_layout_can_be_copied_to_another_process_after_it_was_used():
    layout = TokenLayout.of(Segment("text", 5), VIDEO, calls={(5, 5): (None, None)}, elastic=True)
    layout.for_call(5, 5)
    copy = pickle.loads(pickle.dumps(layout))
    assert copy == layout
    assert copy.for_call(29, 29)[0].segments == layout.segments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segment("words", 3), "its kind is one of image, text, prefix, padding"),
        (lambda: Segment("text", -3), "a token count is 0 or more"),
        (lambda: Segment("text", 6, (2, 3)), "image tokens lie on a grid, and no others do"),
        (lambda: Segment("image", 6), "image tokens lie on a grid, and no others do"),
        (lambda: Segment("image", 7, (2, 3)), "a grid 2x3 has 6 tokens"),
        (lambda: Segment("image", grid=(2, 3, 4, 5)), r"a grid is \(height, width\) or \(frames, height, width\)"),
        (lambda: TokenLayout.of(IMAGE, IMAGE), "at most one segment is the image"),
        (lambda: TokenLayout.of(IMAGE, elastic=True), "exactly one segment, the text, has another length"),
        (lambda: TokenLayout.of(IMAGE, calls={6: (None, None)}), "a call is"),
        (
            lambda: TokenLayout.of(IMAGE, calls={(6, 5): (None, TokenLayout((2, 3)))}),
            "its keys are said to be 2x3 imag",
        ),
    ],
)
def test_what_describes_no_sequence_is_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


# --- calls ----------------------------------------------------------------------------------------------------------


def test_the_table_comes_before_the_lengths_and_a_site_before_both():
    text, other = TokenLayout((0, 0), text=6), TokenLayout((3, 2))
    calls = {(6, 6): (text, text), (6, 6, "down"): (other, other), (6, 9): (IMAGE_ALONE, None)}
    layout = TokenLayout.of(IMAGE, Segment("text", 6), calls=calls)
    assert layout.for_call(6, 6) == (text, text)
    assert layout.for_call(6, 6, site="down") == (other, other)
    assert layout.for_call(6, 6, site="up") == (text, text)
    assert layout.for_call(6, 9) == (IMAGE_ALONE, None)
    assert layout.for_call(12, 12) == (layout, layout)
    assert layout.calls == calls


IMAGE_ALONE = TokenLayout((2, 3))


def test_a_table_by_lengths_does_not_make_images_of_the_keys_of_a_cross_attention():
    # a UNet level with as many tokens as the text: only the module tells its two calls apart
    layout = TokenLayout.of(IMAGE, Segment("text", 6), calls={(6, 6): (IMAGE_ALONE, IMAGE_ALONE)})
    assert layout.for_call(6, 6, cross=False) == (IMAGE_ALONE, IMAGE_ALONE)
    assert layout.for_call(6, 6, cross=True) == (IMAGE_ALONE, TokenLayout((0, 0), text=6))


def test_text_of_another_length_stretches_an_elastic_layout_and_its_tables_sites():
    words = TokenLayout((0, 0), text=5)
    layout = TokenLayout.of(
        *(Segment("prefix", 2), Segment("text", 5), IMAGE),
        calls={(5, 5, "refiner"): (words, words), (6, 5): (IMAGE_ALONE, words), (6, 2): (IMAGE_ALONE, None)},
        elastic=True,
    )
    for text in (1, 4, 9):
        query, key = layout.for_call(8 + text, 8 + text)
        assert query == key == TokenLayout.of(Segment("prefix", 2), Segment("text", text), IMAGE)
        refined = TokenLayout((0, 0), text=text)
        assert layout.for_call(text, text, site="refiner") == (refined, refined)
        if text != 6:
            assert layout.for_call(6, text) == (IMAGE_ALONE, refined)
    assert layout.for_call(6, 6) == (IMAGE_ALONE, IMAGE_ALONE)
    assert layout.for_call(6, 2) == (IMAGE_ALONE, None)
    with pytest.raises(SpecError, match="does not fit"):  # no call of the image with text alone is known
        TokenLayout.of(Segment("text", 5), IMAGE, elastic=True).for_call(6, 4)
    for length in (3, 8):  # without text, or with fewer tokens than the image
        with pytest.raises(SpecError, match="does not fit a sequence of 2 prefix, 5 text, 2x3 image tokens"):
            layout.for_call(length, length)
    with pytest.raises(SpecError, match="does not fit"):
        TokenLayout.of(Segment("text", 5), IMAGE).for_call(10, 10)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (5 * 8 * 6, (5, 8, 6)),
        (5 * 4 * 3, (5, 4, 3)),
        (3 * 4 * 3, (3, 4, 3)),
        (5 * 2 * 2, (5, 2, 2)),
        (8 * 6, (1, 8, 6)),
    ],
)
def test_levels_of_a_video_keep_their_frames_or_halve_them_along(tokens, expected):
    assert TokenLayout((5, 8, 6), text=7).for_call(tokens, tokens)[0] == TokenLayout(expected)


def test_a_level_of_a_video_with_two_readings_must_be_told():
    with pytest.raises(SpecError, match=r"over 64 tokens: it may be 4x4x4 or 8x8; say which \(for example calls="):
        TokenLayout((4, 8, 8)).for_call(64, 64)
    frames = TokenLayout((4, 4, 4))
    told = TokenLayout.of(Segment("image", grid=(4, 8, 8)), calls={(64, 64): (frames, frames)})
    assert told.for_call(64, 64) == (frames, frames)


def test_an_image_has_one_resolution_for_every_number_of_tokens():
    for box in ((1, 16, 16), (1, 15, 9), (1, 128, 96), (1, 1, 7)):
        sizes = {}
        for level in range(-6, 7):
            side = [-(-s // 2**-level) if level < 0 else s * 2**level for s in box[1:]]
            sizes.setdefault(side[0] * side[1], (1, *side))
        for tokens in range(1, 700):
            assert resolutions(box, tokens) == ([sizes[tokens]] if tokens in sizes else [])


# --- specs against the layout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sink-k2@keys=text", "the model has no text tokens; its sequence is 6x6 image tokens"),
        ("sink-k2@queries=text", "the model has no text tokens"),
        ("random-k2@keys=prefix", "the model has no prefix tokens"),
        ("sink-k36", "there are 36 keys and one must stay"),
        ("R11S0", "on a 6x6 grid no two tokens are that far apart"),
        ("R5S20", "on a 6x6 grid at most 15 keys lie outside"),
        ("K37", "a 6x6 grid has 36 tokens"),
        ("D0.01A1", "36 tokens start with themselves"),
        ("R1S0@layers=2", "the model has layers 0 to 1"),
    ],
)
def test_what_the_layout_rules_out_is_refused_before_a_model_runs(spec, message):
    model, layout = models.dit()
    with pytest.raises(SpecError, match=message), attend(model, parse(spec), layout=layout):
        pass
    with attend(model, parse("clean"), layout=layout) as recorder, pytest.raises(SpecError, match=message):
        recorder.begin(0, 4, [parse("clean"), parse(spec)])


def test_tokens_that_only_another_call_of_the_model_has_may_be_named():
    model, layout = models.sdxl()
    words = TokenLayout((0, 0), text=7)
    sizes = [(64, (8, 8)), (16, (4, 4))]
    calls = {(size, size): (TokenLayout(grid),) * 2 for size, grid in sizes}
    calls |= {(size, 7): (TokenLayout(grid), words) for size, grid in sizes}
    told = TokenLayout.of(Segment("image", grid=(8, 8)), calls=calls)
    results = []
    for each in (layout, told):
        with attend(model, parse("sink-k2@keys=text"), layout=each):
            results.append(model(**models.sdxl_inputs()).sample)
    assert (results[0] == results[1]).all()
    with (
        pytest.raises(SpecError, match="there are 7 text keys"),
        attend(model, parse("sink-k8@keys=text"), layout=told),
    ):
        pass
