"""Claims about the graphs of the masking paper: their densities, their definitions, their randomness, their speed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interventions import SpecError, TokenLayout, density, graphs, parse
from interventions.families.hub_spoke import hub_spoke
from interventions.families.preferential import preferential
from interventions.families.small_world import ball_sizes, small_world
from tests.oracles.graphs import grow_one_by_one, small_world_density

TABLE = [  # density in percent, self included, ball clipped at the border: the project's table of measured masks
    *[((7, 7), spec, percent) for spec, percent in {"R4S32": 99.7, "R4S0": 51.2, "R0S32": 67.4}.items()],
    *[((14, 14), spec, percent) for spec, percent in {"R4S32": 33.0, "R4S0": 16.7, "R0S32": 16.8}.items()],
    *[((16, 16), spec, percent) for spec, percent in {"R4S32": 25.7, "R4S0": 13.2, "R0S32": 12.9}.items()],
    *[((14, 14), spec, percent) for spec, percent in {"R0S24": 12.8, "R3S0": 10.8}.items()],
    *[((64, 64), spec, percent) for spec, percent in {"R4S32": 1.74, "R4S0": 0.96, "R0S32": 0.81}.items()],
]
NEAR_25 = {
    (7, 7): "R0S11 R1S8 R2S2",
    (14, 14): "R0S48 R2S37 R3S28 R4S16 R5S3",
    (16, 16): "R0S63 R3S42 R4S30 R5S16 R6S1",
    (64, 64): "R4S985 R16S570 R26S0",
}
NEAR_50 = {
    (7, 7): "R0S23 R1S20 R2S14 R3S7 R4S0",
    (14, 14): "R0S97 R3S77 R4S65 R5S52 R8S7",
    (16, 16): "R0S127 R4S94 R6S65 R8S31 R9S13",
    (64, 64): "R4S2009 R16S1594 R41S0",
}


@pytest.mark.parametrize(("grid", "spec", "percent"), TABLE)
def test_small_world_densities_match_the_published_grids(grid, spec, percent):
    layout = TokenLayout(grid)
    rounding = 0.006 if percent < 2 else 0.06
    assert 100 * density(parse(spec).mask(layout), layout) == pytest.approx(percent, abs=rounding)


@pytest.mark.parametrize(("target", "table"), [(0.25, NEAR_25), (0.5, NEAR_50)])
def test_the_tabled_pairs_of_radius_and_shortcuts_come_near_their_density(target, table):
    for grid, specs in table.items():
        for spec in specs.split():
            value = parse(spec)
            reached = np.minimum(ball_sizes(grid, value.radius) + value.shortcuts, grid[0] * grid[1]).mean()
            assert reached / (grid[0] * grid[1]) == pytest.approx(target, abs=0.013), (grid, spec)


grids = st.tuples(st.integers(1, 7), st.integers(1, 7))


@given(grids, st.integers(0, 12), st.integers(0, 48), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_small_world_is_ball_and_shortcuts_counted_cell_by_cell(grid, radius, shortcuts, seed):
    try:
        graph = small_world(grid, radius, shortcuts, seed)
    except SpecError:
        tokens, widest = grid[0] * grid[1], sum(grid) - 2
        corner = sum(row + column <= radius for row in range(grid[0]) for column in range(grid[1]))
        assert radius > widest or shortcuts > tokens - corner
        return
    assert graph[graphs.manhattan(grid) <= radius].all()
    assert graph.mean() == pytest.approx(small_world_density(grid, radius, shortcuts), abs=1e-12)


def test_shortcuts_of_a_smaller_number_are_among_those_of_a_larger():
    few, many = (small_world((9, 9), 2, shortcuts, seed=5) for shortcuts in (6, 20))
    assert (many | few == many).all()


def test_shortcuts_are_uniform_over_the_keys_outside_the_ball():
    seeds, shortcuts = 2000, 3
    drawn = sum(small_world((4, 4), 1, shortcuts, seed)[0].astype(int) for seed in range(seeds))
    outside = graphs.manhattan((4, 4))[0] > 1
    chance = shortcuts / outside.sum()
    z = (drawn[outside] - seeds * chance) / np.sqrt(seeds * chance * (1 - chance))
    assert np.abs(z).max() < 4  # 13 keys: a false alarm once in a thousand seeds, and the seeds are fixed
    assert (drawn[~outside] == seeds).all()


def in_degree_profile(drawn):
    """Mean and standard error of the sorted in-degrees."""
    profiles = np.array([np.sort(graph.sum(axis=0)) for graph in drawn])
    return profiles.mean(axis=0), profiles.std(axis=0, ddof=1) / np.sqrt(len(profiles))


@pytest.mark.parametrize(("share", "exponent"), [(0.3, 1.0), (0.5, 1.0), (0.35, 2.0), (0.4, 0.5), (0.4, 0.0)])
def test_preferential_attachment_has_the_in_degrees_of_one_by_one_growth(share, exponent):
    tokens = 20
    slow, slow_error = in_degree_profile(
        [grow_one_by_one(tokens, share, exponent, np.random.default_rng(seed)) for seed in range(60)]
    )
    fast, fast_error = in_degree_profile([preferential(tokens, share, exponent, seed) for seed in range(600)])
    other, _ = in_degree_profile([preferential(tokens, share, exponent + 1, seed) for seed in range(600)])
    error = np.sqrt(slow_error**2 + fast_error**2) + 0.02
    assert (np.abs(fast - slow) < 4 * error).all()
    assert (np.abs(other - slow) > 4 * error).any()  # the comparison can tell another exponent apart


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_preferential_attachment_has_the_out_degrees_and_mutual_pairs_of_one_by_one_growth(exponent):
    def measure(drawn):
        values = np.array([[graph.sum(axis=1).std(), (graph & graph.T).sum()] for graph in drawn])
        return values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))

    slow, slow_error = measure([grow_one_by_one(20, 0.35, exponent, np.random.default_rng(seed)) for seed in range(60)])
    fast, fast_error = measure([preferential(20, 0.35, exponent, seed) for seed in range(600)])
    assert (np.abs(fast - slow) < 4 * np.sqrt(slow_error**2 + fast_error**2)).all()


def test_preferential_attachment_is_close_to_growth_that_picks_the_query_first():
    """The paper leaves open how the query is chosen: drawing it uniformly first narrows in-degrees by a few percent."""
    spread = {}
    for query in ("pair", "uniform"):
        grown = [grow_one_by_one(24, 0.3, 1.0, np.random.default_rng(seed), query) for seed in range(60)]
        spread[query] = np.mean([graph.sum(axis=0).std() for graph in grown])
    fast = np.mean([preferential(24, 0.3, 1.0, seed).sum(axis=0).std() for seed in range(300)])
    assert fast == pytest.approx(spread["pair"], rel=0.08)
    assert fast == pytest.approx(spread["uniform"], rel=0.15)


@given(st.integers(3, 40), st.floats(0.05, 1), st.floats(0, 10), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_preferential_attachment_reaches_its_density_to_one_edge(tokens, share, exponent, seed):
    if round(share * tokens**2) < 3 * tokens:
        with pytest.raises(SpecError, match="start with themselves"):
            preferential(tokens, share, exponent, seed)
        return
    graph = preferential(tokens, share, exponent, seed)
    assert abs(int(graph.sum()) - share * tokens**2) <= 1
    assert graph.diagonal().all()
    assert graph.sum(axis=1).min() >= 3  # self and the two connections of the start


@given(grids, st.integers(1, 49), st.integers(1, 49), st.booleans(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_hub_spoke_ties_every_token_to_its_nearest_hubs(grid, hubs, nearest, both_ways, seed):
    tokens = grid[0] * grid[1]
    if hubs > tokens or nearest > hubs:
        with pytest.raises(SpecError):
            hub_spoke(grid, hubs, nearest, seed)
        return
    graph = hub_spoke(grid, hubs, nearest, seed, both_ways=both_ways)
    chosen = np.sort(np.random.default_rng(seed).choice(tokens, size=hubs, replace=False))
    cells = [divmod(token, grid[1]) for token in range(tokens)]
    for token in range(tokens):
        read = set(np.flatnonzero(graph[token])) - {token}
        if token in chosen:
            assert set(chosen) - {token} <= read
            continue
        assert len(read) == nearest
        assert read <= set(chosen)
        reach = sorted(abs(cells[token][0] - cells[hub][0]) + abs(cells[token][1] - cells[hub][1]) for hub in chosen)
        own = sorted(abs(cells[token][0] - cells[hub][0]) + abs(cells[token][1] - cells[hub][1]) for hub in read)
        assert own == reach[:nearest]
        assert graph[list(read), token].all() == both_ways
    spokes = (tokens - hubs) * nearest * (2 if both_ways else 1)
    assert graph.sum() == tokens + hubs * (hubs - 1) + spokes


def test_hubs_are_uniform_over_the_grid():
    seeds, hubs = 3000, 3
    counts = np.zeros(16)
    for seed in range(seeds):
        graph = hub_spoke((4, 4), hubs, 3, seed)
        counts[graph.sum(axis=1) == 16] += 1  # with nearest = hubs every hub is tied to all tokens
    chance = hubs / 16
    z = (counts - seeds * chance) / np.sqrt(seeds * chance * (1 - chance))
    assert counts.sum() == seeds * hubs
    assert np.abs(z).max() < 4


SPECS = ["R4S32", "R4S0", "R0S32", "D0.25A1", "K64N8", "K64", "K64N8-oneway"]


@pytest.mark.parametrize("spec", SPECS)
def test_graphs_are_deterministic_in_the_seed_and_keep_self_connections(spec):
    layout = TokenLayout((16, 16))
    first, again, other = (parse(spec).mask(layout, seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert first.diagonal().all()
    assert (first == other).all() == (spec == "R4S0")  # only the ball is not random


@pytest.mark.parametrize("spec", SPECS)
def test_a_graph_acts_on_the_image_block_and_leaves_other_rows_and_columns_open(spec):
    layout = TokenLayout((16, 16), prefix=2, text=5)
    mask = parse(spec).mask(layout, seed=1)
    alone = parse(spec).mask(TokenLayout((16, 16)), seed=1)
    assert mask.shape == (263, 263)
    assert (mask[2:258, 2:258] == alone).all()
    outside = np.ones_like(mask)
    outside[2:258, 2:258] = False
    assert mask[outside].all()


def test_density_is_of_image_pairs_with_a_layout_and_of_all_pairs_without():
    layout = TokenLayout((64, 64), text=333)
    mask = parse("R4S32").mask(layout)
    assert round(100 * density(mask, layout), 2) == 1.74
    assert round(100 * density(mask), 1) == 16.0  # the published denominators of SD3's joint attention
    assert density(parse("full").mask(TokenLayout((4, 4)))) == 1


def test_masks_with_an_empty_row_are_refused():
    mask = np.eye(4, dtype=bool)
    mask[2] = False
    with pytest.raises(SpecError, match="row 2"):
        density(mask)
    with pytest.raises(SpecError, match="boolean"):
        graphs.check_mask(np.eye(4))
    with pytest.raises(SpecError, match="16 tokens"):
        density(mask, TokenLayout((4, 4)))


@pytest.mark.parametrize("spec", ["R4S32", "R4S2009", "D0.25A1", "D0.5A1", "D0.5A3", "K64N8", "K1024N32"])
def test_a_graph_of_4096_tokens_takes_under_two_seconds_of_one_core(spec):
    layout = TokenLayout((64, 64))
    start = time.process_time()
    parse(spec).mask(layout)
    assert time.process_time() - start < 2
