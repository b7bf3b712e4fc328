"""What kind of graph a mask is: degrees, clustering, path length, spectral gap, components.

Read as a directed graph in which a query points at the keys it may read. Self-connections, which every mask has, are
left out of everything but the density and the spectral gap. Nothing here knows grids or models.
"""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import eigs

from interventions.errors import spec_error
from interventions.graphs import check_mask, density

EXACT_UP_TO = 1024  # tokens; above it clustering and path length are means over a sample of tokens
SAMPLED_TOKENS = 128
_DENSE_EIGENVALUES_UP_TO = 512


def graph_statistics(mask: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the statistics of a square boolean mask [query, key] as plain numbers.

    tokens, edges (self excluded), density (self included).
    in_degree_* and out_degree_* (mean, min, max, sd; self excluded): queries that read a key, keys that a query reads.
    clustering: mean directed clustering coefficient (Fagiolo 2007, as in networkx).
    path_length: mean over ordered pairs of the fewest layers that carry information from one token to another
        (characteristic path length); pairs without a path are left out, and unreachable is their share.
    spectral_gap: 1 - |second eigenvalue| of the random walk that reads every allowed key, self included, alike: 1 for a
        complete graph, 0 for one that never mixes.
    strong_components: number of strongly connected components.
    sampled_tokens: over how many tokens clustering and path length are averaged: all of them up to 1024 tokens, 128
        drawn uniformly without replacement with `seed` above.
    Raises `SpecError` for a mask that is not square or has an empty row.
    """
    mask = np.asarray(mask, dtype=bool)
    check_mask(mask)
    tokens = len(mask)
    if mask.shape != (tokens, tokens):
        raise spec_error(f"mask {list(mask.shape)}", "graph statistics need as many queries as keys", "R4S32")
    graph = mask.copy()
    np.fill_diagonal(graph, False)
    sample = np.arange(tokens)
    if tokens > EXACT_UP_TO:
        sample = np.sort(np.random.default_rng(seed).choice(tokens, size=SAMPLED_TOKENS, replace=False))
    path_length, unreachable = _path_length(graph, sample)
    components, labels = csgraph.connected_components(sparse.csr_array(graph), connection="strong")
    return {
        "tokens": tokens,
        "edges": int(graph.sum()),
        "density": density(mask),
        **_degrees("in", graph.sum(axis=0)),
        **_degrees("out", graph.sum(axis=1)),
        "clustering": _clustering(graph, sample),
        "path_length": path_length,
        "unreachable": unreachable,
        "spectral_gap": _spectral_gap(mask, labels),
        "strong_components": int(components),
        "sampled_tokens": len(sample),
    }


def _degrees(side: str, degree: np.ndarray) -> dict[str, float]:
    """Summarise the degrees of one side."""
    return {
        f"{side}_degree_mean": float(degree.mean()),
        f"{side}_degree_min": int(degree.min()),
        f"{side}_degree_max": int(degree.max()),
        f"{side}_degree_sd": float(degree.std()),
    }


def _clustering(graph: np.ndarray, sample: np.ndarray) -> float:
    """Mean over the sample of [(A + A')^3]_ii / (2 (d (d - 1) - 2 d_both)), d the degree in plus out; 0 without."""
    adjacency = graph.astype(np.float32)
    both_ways = adjacency + adjacency.T
    rows = both_ways[sample]
    triangles = np.einsum("ij,ij->i", rows @ both_ways, rows, dtype=np.float64)
    degree = rows.sum(axis=1, dtype=np.float64)
    mutual = (graph[sample] & graph.T[sample]).sum(axis=1)
    pairs = 2 * (degree * (degree - 1) - 2 * mutual)
    return float(np.divide(triangles, pairs, out=np.zeros_like(triangles), where=pairs > 0).mean())


def _path_length(graph: np.ndarray, sample: np.ndarray) -> tuple[float, float]:
    """Return the mean hops from the sampled tokens to all that they reach, and the share of pairs without a path.

    Level by level from all sampled tokens at once; a path of one hop is one layer of attention.
    """
    tokens = len(graph)
    if tokens == 1:
        return float("nan"), 0.0
    sparse_enough = graph.mean() < 0.05
    step = sparse.csr_array(graph.astype(np.float32)) if sparse_enough else graph.astype(np.float32)
    reached = np.zeros((len(sample), tokens), dtype=bool)
    reached[np.arange(len(sample)), sample] = True
    frontier = reached.copy()
    hops, paths, level = 0, 0, 0
    while frontier.any():
        found = frontier.astype(np.float32) @ step > 0
        frontier = found & ~reached
        reached |= frontier
        level += 1
        hops += level * int(frontier.sum())
        paths += int(frontier.sum())
    possible = len(sample) * (tokens - 1)
    return (hops / paths if paths else float("nan")), 1 - paths / possible


def _spectral_gap(mask: np.ndarray, components: np.ndarray) -> float:
    """Return 1 - |lambda_2| of the row-normalised mask; 0 where two parts never exchange anything."""
    if _closed_components(mask, components) > 1:
        return 0.0  # each has an eigenvalue 1 of its own
    tokens = len(mask)
    if tokens == 1:
        return 1.0
    walk = mask / mask.sum(axis=1, keepdims=True, dtype=np.float64)
    if tokens <= _DENSE_EIGENVALUES_UP_TO:
        return float(1 - np.sort(np.abs(np.linalg.eigvals(walk)))[-2])
    operator = sparse.csr_array(walk) if mask.mean() < 0.1 else walk
    start = np.random.default_rng(0).random(tokens)
    gap = 0.0
    for tolerance in (1e-2, 1e-7):  # relative to the eigenvalue: unless that is small, the gap needs the second round
        eigenvalues = eigs(operator, k=2, ncv=100, v0=start, return_eigenvectors=False, tol=tolerance)
        gap = float(1 - np.abs(eigenvalues).min())
        if gap > 0.8:
            break
    return gap


def _closed_components(mask: np.ndarray, components: np.ndarray) -> int:
    """Count the strongly connected components that read nothing outside themselves."""
    queries, keys = np.nonzero(mask)
    leaving = components[queries[components[queries] != components[keys]]]
    return len(np.setdiff1d(components, leaving))
