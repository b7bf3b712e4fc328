"""Graphs on a video: distance is over (frame, row, column); one frame is the graph of an image, to the last bit."""

import hashlib
import math

import networkx as nx
import numpy as np
import pytest

from interventions import SpecError, TokenLayout, density, graphs, parse, solve_density
from interventions.families import density_families
from interventions.families.hub_spoke import hub_spoke
from interventions.families.small_world import ball_sizes, small_world

GRIDS = [(3, 4, 5), (5, 2, 3), (2, 6, 1)]


def walked(grid):
    """Steps between all pairs of cells, by breadth-first search on networkx's grid graph, cells row-major."""
    lattice = nx.grid_graph(dim=grid[::-1])
    cells = list(np.ndindex(grid))
    lengths = dict(nx.all_pairs_shortest_path_length(lattice))
    return np.array([[lengths[one][other] for other in cells] for one in cells])


@pytest.mark.parametrize("grid", GRIDS)
def test_distances_and_balls_are_those_of_a_lattice_of_frames(grid):
    steps = walked(grid)
    assert (graphs.manhattan(grid) == steps).all()
    for radius in range(sum(grid)):
        assert ball_sizes(grid, radius).tolist() == (steps <= radius).sum(axis=1).tolist()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("radius", "shortcuts"), [(1, 0), (2, 3), (0, 4)])
def test_a_small_world_of_a_video_is_the_ball_of_the_lattice_and_shortcuts_outside_it(grid, radius, shortcuts):
    graph, ball = small_world(grid, radius, shortcuts, seed=1), walked(grid) <= radius
    assert graph[ball].all()
    expected = np.minimum((~ball).sum(axis=1), shortcuts)
    assert ((graph & ~ball).sum(axis=1) == expected).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("hubs", "nearest"), [(4, 1), (6, 3)])
def test_tokens_of_a_video_are_tied_to_their_nearest_hubs_of_any_frame(grid, hubs, nearest):
    steps, graph = walked(grid), hub_spoke(grid, hubs, nearest, seed=2)
    chosen = np.sort(np.random.default_rng(2).choice(math.prod(grid), size=hubs, replace=False))
    assert graph[np.ix_(chosen, chosen)].all()
    for token in sorted(set(range(math.prod(grid))) - set(chosen)):
        read = sorted(set(np.flatnonzero(graph[token])) - {token})
        assert len(read) == nearest
        assert sorted(steps[token, read]) == sorted(steps[token, chosen])[:nearest]


def test_frames_are_not_rows_of_one_tall_picture():
    # what stacking frames into rows connects: the last row of a frame and the first of the next
    apart, stacked = parse("R1S0").mask(TokenLayout((2, 3, 4))), parse("R1S0").mask(TokenLayout((6, 4)))
    last, first = 2 * 4 + 1, 3 * 4 + 1  # frame 0 row 2, frame 1 row 0, both column 1
    assert stacked[last, first]
    assert not apart[last, first]
    assert apart[1, 12 + 1]  # the same cell of the next frame


@pytest.mark.parametrize("family", density_families(shipped=True))
@pytest.mark.parametrize("target", [0.15, 0.4])
def test_densities_are_solved_for_on_a_video(family, target):
    layout = TokenLayout((5, 8, 8), text=3)
    spec = solve_density(family, target, layout)
    spec.check(layout)
    assert density(spec.mask(layout, seed=3), layout) == pytest.approx(target, rel=0.2)  # local: steps of the radius


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("R20S0", "on a 5x8x8 grid no two tokens are that far apart; the largest is 18"),
        ("R18S1", "on a 5x8x8 grid at most"),
        ("K321", "a 5x8x8 grid has 320 tokens"),
    ],
)
def test_what_does_not_fit_a_video_names_its_grid(spec, message):
    with pytest.raises(SpecError, match=message):
        parse(spec).check(TokenLayout((5, 8, 8)))


# sha256 of masks over 1 prefix, the image and 3 text tokens, of the code before layouts had frames (commit 390cae1)
BEFORE = {
    ((16, 16), "R4S32", 1): "56c98cd6f9656f23",
    ((16, 16), "R4S32", 7): "5801c036bbfed758",
    ((16, 16), "R1S0", 1): "ace2ef9d8ce44278",
    ((16, 16), "R1S0", 7): "ace2ef9d8ce44278",
    ((16, 16), "R0S3", 1): "d74455953cc740a2",
    ((16, 16), "R0S3", 7): "82096fbce45c9751",
    ((16, 16), "R2S7", 1): "2dc446680ee6be1a",
    ((16, 16), "R2S7", 7): "46d7af96260c80bb",
    ((16, 16), "K9N3", 1): "3278903883c77b0f",
    ((16, 16), "K9N3", 7): "5c0bab97f33adbdc",
    ((16, 16), "K5", 1): "a56b8c2d73938bee",
    ((16, 16), "K5", 7): "fc9af562589795a0",
    ((16, 16), "K12N4-oneway", 1): "1f34d93601e4d935",
    ((16, 16), "K12N4-oneway", 7): "813a6a4b8acd7f8e",
    ((16, 16), "D0.6A0.5", 1): "1b49b31bf6bb73b9",
    ((16, 16), "D0.6A0.5", 7): "7b1e59dc14767180",
    ((7, 3), "R1S0", 1): "c11f039d730e0b68",
    ((7, 3), "R1S0", 7): "c11f039d730e0b68",
    ((7, 3), "R0S3", 1): "ecf17bb7165a5b54",
    ((7, 3), "R0S3", 7): "5301b07827b5144f",
    ((7, 3), "R2S7", 1): "9cc18e3e1697c816",
    ((7, 3), "R2S7", 7): "3f60981bd6c9e475",
    ((7, 3), "K9N3", 1): "53c387f5a10b6320",
    ((7, 3), "K9N3", 7): "bde772f09a027dab",
    ((7, 3), "K5", 1): "9992d87b5dbd4e5f",
    ((7, 3), "K5", 7): "21ba413ba5575342",
    ((7, 3), "K12N4-oneway", 1): "88df174f5e5cc569",
    ((7, 3), "K12N4-oneway", 7): "3de798d1eb4b8699",
    ((7, 3), "D0.6A0.5", 1): "37d04a64bbcf3cc0",
    ((7, 3), "D0.6A0.5", 7): "fae45e7e2b0d0df6",
}


@pytest.mark.parametrize(("grid", "spec", "seed"), BEFORE)
def test_one_frame_is_the_graph_of_an_image_to_the_last_bit(grid, spec, seed):
    for sides in (grid, (1, *grid)):
        mask = parse(spec).mask(TokenLayout(sides, prefix=1, text=3), seed)
        assert hashlib.sha256(mask.tobytes()).hexdigest()[:16] == BEFORE[grid, spec, seed]


@pytest.mark.parametrize("pairs", [1, 100])
def test_a_graph_that_is_made_some_rows_at_a_time_is_the_same(monkeypatch, pairs):
    monkeypatch.setattr("interventions.families.small_world.PAIRS_AT_ONCE", pairs)
    for grid, spec, seed in (key for key in BEFORE if key[1].startswith("R")):
        mask = parse(spec).mask(TokenLayout(grid, prefix=1, text=3), seed)
        assert hashlib.sha256(mask.tobytes()).hexdigest()[:16] == BEFORE[grid, spec, seed]
