"""Claims about token layouts: where tokens lie, and which layout an attention call has."""

import numpy as np
import pytest

from interventions import SpecError, TokenLayout


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
