"""Claims about the picture of a mask: three panels that show the mask they were given."""

import io
import sys

import numpy as np
import pytest

from analysis.figures import mask as mask_figure
from interventions import TokenLayout, parse


def images(figure):
    """The arrays drawn in the three panels."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]


def test_the_panels_show_neighbours_adjacency_and_in_degree():
    layout = TokenLayout((2, 3))
    mask = np.eye(6, dtype=bool)
    mask[4, 0] = mask[4, 5] = mask[5, 4] = mask[1, 4] = True  # (1, 1) is token 4
    neighbours, adjacency, degree = images(mask_figure.figure(mask, layout, "made by hand"))
    assert neighbours.tolist() == [[1, 2, 0], [0, 0, 3]]  # reads 0, is read by 1, both with 5
    assert (adjacency == mask).all()
    assert degree.tolist() == [[1, 0, 0], [0, 2, 1]]  # self is not counted


def test_a_joint_mask_shows_its_text_tokens_only_in_the_adjacency():
    layout = TokenLayout((4, 4), prefix=1, text=3)
    neighbours, adjacency, degree = images(mask_figure.figure(parse("R1S0").mask(layout), layout, "R1S0", token=(0, 0)))
    assert adjacency.shape == (20, 20)
    assert (neighbours == 3).sum() == 2  # a corner has two neighbours
    assert degree.tolist() == [[2, 3, 3, 2], [3, 4, 4, 3], [3, 4, 4, 3], [2, 3, 3, 2]]


def test_a_large_mask_is_drawn_as_shares_of_allowed_pairs():
    layout = TokenLayout((30, 41))  # 1230 tokens: 3 x 3 pairs a dot
    mask = np.zeros((1230, 1230), dtype=bool)
    mask[:, 0] = True
    adjacency = images(mask_figure.figure(mask, layout, "one key"))[1]
    assert adjacency.shape == (410, 410)
    assert np.allclose(adjacency[:, 0] ** 2, 1 / 3)
    assert not adjacency[:, 1:].any()


def test_the_title_states_the_image_image_density():
    layout = TokenLayout((16, 16), text=7)
    figure = mask_figure.figure(parse("R4S32").mask(layout), layout, "R4S32 on 16 x 16")
    assert figure.get_suptitle() == "R4S32 on 16 x 16   (image-image density 25.7%)"
    figure.savefig(io.BytesIO(), format="png")


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="16 tokens"):
        mask_figure.figure(np.eye(4, dtype=bool), TokenLayout((4, 4)), "wrong")


def test_drawing_leaves_pyplot_alone():
    def known() -> list[int]:
        """The figures that pyplot holds, those of other tests among them."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        return pyplot.get_fignums() if pyplot else []

    layout, before = TokenLayout((4, 4)), known()
    mask_figure.figure(parse("R1S0").mask(layout), layout, "R1S0")
    assert known() == before


def test_the_frames_of_a_video_stand_apart_and_show_who_reads_over_time():
    layout = TokenLayout((2, 2, 3), text=1)
    figure = mask_figure.figure(parse("R1S0").mask(layout), layout, "R1S0", token=(1, 0, 2))
    neighbours, _, degree = images(figure)
    # one column between the frames: the same cell a frame before, two neighbours in its own frame
    shown = np.ma.filled(figure.axes[0].images[0].get_array(), 9)
    assert shown.tolist() == [[0, 0, 3, 9, 0, 3, 0], [0, 0, 0, 9, 0, 0, 3]]
    assert neighbours.shape == degree.shape == (2, 7)
    assert degree[0, :3].tolist() == [3, 4, 3]  # a corner of the lattice, the middle of its edge
    assert [text.get_text() for text in figure.axes[0].texts if "frame" in text.get_text()] == ["frame 0", "frame 1"]
    assert "token (1, 0, 2)" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_every_frame_has_a_place_of_its_own_in_the_picture():
    for count, height, width in ((1, 4, 5), (5, 8, 8), (16, 8, 12), (7, 3, 20), (9, 20, 3)):
        frames = mask_figure.Frames(count, height, width)
        picture = frames.beside(np.arange(count * height * width))
        assert sorted(picture.compressed().tolist()) == list(range(count * height * width))
        for frame in range(count):
            assert picture[frames.corner(frame)] == frame * height * width
