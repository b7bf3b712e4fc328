"""Claims about graph statistics: closed forms, and networkx on small random graphs."""

import networkx
import numpy as np
import pytest

from interventions import SpecError, TokenLayout, graph_statistics, parse


def ring(tokens):
    """Every token reads itself and its two neighbours on a ring."""
    return sum(np.roll(np.eye(tokens, dtype=bool), shift, axis=1) for shift in (-1, 0, 1)).astype(bool)


def random_mask(tokens, share, seed):
    mask = np.random.default_rng(seed).random((tokens, tokens)) < share
    np.fill_diagonal(mask, True)
    return mask


@pytest.mark.parametrize(("tokens", "share"), [(12, 0.15), (25, 0.3), (30, 0.7), (40, 0.05)])
def test_clustering_paths_and_components_agree_with_networkx(tokens, share):
    mask = random_mask(tokens, share, seed=tokens)
    statistics = graph_statistics(mask)
    graph = networkx.from_numpy_array(mask & ~np.eye(tokens, dtype=bool), create_using=networkx.DiGraph)
    lengths = [
        hops for _, reached in networkx.all_pairs_shortest_path_length(graph) for hops in reached.values() if hops
    ]
    assert statistics["clustering"] == pytest.approx(networkx.average_clustering(graph), rel=1e-5)
    assert statistics["path_length"] == pytest.approx(np.mean(lengths))
    assert statistics["unreachable"] == pytest.approx(1 - len(lengths) / (tokens * (tokens - 1)))
    assert statistics["strong_components"] == networkx.number_strongly_connected_components(graph)
    assert statistics["edges"] == graph.number_of_edges()
    assert statistics["in_degree_max"] == max(degree for _, degree in graph.in_degree)
    assert statistics["out_degree_sd"] == pytest.approx(np.std([degree for _, degree in graph.out_degree]))


@pytest.mark.parametrize("tokens", [9, 41, 601, 1201])
def test_a_ring_has_its_closed_forms_on_the_exact_and_on_the_sampled_route(tokens):
    statistics = graph_statistics(ring(tokens))
    assert statistics["spectral_gap"] == pytest.approx((2 - 2 * np.cos(2 * np.pi / tokens)) / 3, rel=1e-3)
    assert statistics["path_length"] == pytest.approx((tokens + 1) / 4)  # odd ring: distances 1..(n-1)/2, twice each
    assert statistics["clustering"] == 0
    assert statistics["in_degree_mean"] == statistics["out_degree_max"] == 2
    assert statistics["density"] == pytest.approx(3 / tokens)
    assert statistics["strong_components"] == 1
    assert statistics["sampled_tokens"] == (tokens if tokens <= 1024 else 128)


def test_a_complete_graph_mixes_in_one_layer():
    statistics = graph_statistics(np.ones((30, 30), dtype=bool))
    assert statistics["spectral_gap"] == pytest.approx(1)
    assert statistics["clustering"] == pytest.approx(1)
    assert statistics["path_length"] == 1
    assert statistics["density"] == 1


def test_two_parts_that_never_meet_have_no_gap():
    mask = np.kron(np.eye(2, dtype=bool), np.ones((8, 8), dtype=bool)).astype(bool)
    statistics = graph_statistics(mask)
    assert statistics["spectral_gap"] == 0
    assert statistics["strong_components"] == 2
    assert statistics["unreachable"] == pytest.approx(1 - 2 * 8 * 7 / (16 * 15))
    assert statistics["path_length"] == 1


def test_the_spectral_gap_of_a_directed_graph_agrees_with_a_dense_solver_on_the_iterative_route():
    mask = parse("R1S1").mask(TokenLayout((24, 24)))  # 576 tokens: above the dense limit
    walk = mask / mask.sum(axis=1, keepdims=True)
    moduli = np.sort(np.abs(np.linalg.eigvals(walk)))
    assert graph_statistics(mask)["spectral_gap"] == pytest.approx(1 - moduli[-2], abs=1e-5)


def test_shortcuts_make_a_small_world():
    layout = TokenLayout((16, 16))
    local, small = (graph_statistics(parse(spec).mask(layout)) for spec in ("R2S0", "R2S2"))
    assert small["path_length"] < 0.6 * local["path_length"]  # Watts and Strogatz: paths collapse first,
    assert small["clustering"] > 0.4 * local["clustering"]  # clustering stays
    assert small["clustering"] > 3 * graph_statistics(parse("R0S13").mask(layout))["clustering"]
    assert small["spectral_gap"] > 3 * local["spectral_gap"]


def test_4096_tokens_are_tractable_and_the_sample_is_stated():
    statistics = graph_statistics(parse("R4S0").mask(TokenLayout((64, 64))))
    assert statistics["sampled_tokens"] == 128
    # mean of ceil(d / 4) over pairs of a 64x64 grid: each hop covers Manhattan distance 4
    offsets = np.abs(np.arange(64)[:, None] - np.arange(64)).ravel()
    counts = np.bincount(offsets)
    distance = np.add.outer(np.arange(64), np.arange(64))
    weight = np.outer(counts, counts)
    weight[0, 0] = 0
    exact = (np.ceil(distance / 4) * weight).sum() / weight.sum()
    assert statistics["path_length"] == pytest.approx(exact, rel=0.06)


def test_masks_that_are_no_graph_are_refused():
    with pytest.raises(SpecError, match="as many queries as keys"):
        graph_statistics(np.ones((3, 4), dtype=bool))
    with pytest.raises(SpecError, match="no key at all"):
        graph_statistics(np.zeros((3, 3), dtype=bool))
