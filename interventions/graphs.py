"""The graphs of source A as boolean arrays [query, key] over the image tokens, from a seed.

Small-world, preferential attachment and hub-spoke, all with self-connections, vectorised, and deterministic in
(arguments, seed) through a numpy Generator. Nothing here knows sequences or specs; `families` puts a graph on a layout.
Source: "Probing information flow in vision transformers through controlled attention perturbation" (Sci4DL 2026).
"""

import numpy as np

from interventions.errors import spec_error
from interventions.layout import TokenLayout

LARGEST_EXPONENT = 10  # beyond it a few keys take everything at once and the number only costs precision
START_CONNECTIONS = 2  # of a token, besides itself, before preferential attachment grows


def manhattan(grid: tuple[int, int]) -> np.ndarray:
    """Return int16 [token, token]: Manhattan distance between the cells of a row-major grid."""
    rows, columns = (axis.ravel().astype(np.int16) for axis in np.indices(grid))
    return np.abs(rows[:, None] - rows) + np.abs(columns[:, None] - columns)


def small_world(grid: tuple[int, int], radius: int, shortcuts: int, seed: int = 0) -> np.ndarray:
    """Return bool [query, key]: a Manhattan ball clipped at the border, plus directed shortcuts from outside it.

    Shortcuts are drawn uniformly without replacement, `shortcuts` per query; a query with fewer keys outside its ball
    takes them all. With one seed the shortcuts of a smaller number are among those of a larger. Raises `SpecError` if
    the radius exceeds the grid or no query has that many keys outside its ball.
    """
    check_small_world(grid, radius, shortcuts)
    distance = manhattan(grid)
    tokens = len(distance)
    graph = distance <= radius
    if shortcuts:
        order = np.random.default_rng(seed).random((tokens, tokens), dtype=np.float32)
        order[graph] = 2.0  # above every draw: the ball is never chosen again
        chosen = np.argpartition(order, shortcuts - 1, axis=1)[:, :shortcuts]
        np.put_along_axis(graph, chosen, True, axis=1)
    return graph


def ball_sizes(grid: tuple[int, int], radius: int) -> np.ndarray:
    """Return int [token]: how many cells lie within the Manhattan radius of each cell, itself included."""
    height, width = grid
    rows, columns = np.indices(grid).reshape(2, -1, 1)
    offset = np.arange(-radius, radius + 1)
    reach = radius - np.abs(offset)  # what is left of the radius for columns
    left, right = np.maximum(columns - reach, 0), np.minimum(columns + reach, width - 1)
    inside = (rows + offset >= 0) & (rows + offset < height)
    return np.where(inside, right - left + 1, 0).sum(axis=1)


def check_small_world(grid: tuple[int, int], radius: int, shortcuts: int) -> None:
    """Raise `SpecError` if the radius or the shortcuts exceed what the grid holds."""
    height, width = grid
    widest = height + width - 2
    if radius > widest:
        raise spec_error(
            f"radius R{radius}",
            f"on a {height}x{width} grid no two tokens are that far apart; the largest is {widest}",
            f"R{min(4, widest)}S0",
        )
    outside = height * width - int(ball_sizes(grid, radius).min())
    if shortcuts > outside:
        raise spec_error(
            f"shortcuts S{shortcuts}",
            f"on a {height}x{width} grid at most {outside} keys lie outside the ball of radius {radius}",
            f"R{radius}S{outside}",
        )


def preferential(tokens: int, density: float, exponent: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return bool [query, key]: directed preferential attachment, grown edge by edge to a density of tokens^2.

    Each token starts with itself and two other keys drawn uniformly; then edges are added one at a time with P(key j |
    query i) proportional to (in_degree(j) + 1)^exponent over the keys that i does not read yet, until round(density *
    tokens^2) pairs, self included, are connected. Raises `SpecError` if the start alone exceeds the density.

    The paper leaves open how the first two are drawn, whether self counts as in-degree (here it does not), and how the
    query is chosen: here a new edge is any absent pair (i, j) with probability proportional to
    (in_degree(j) + 1)^exponent, which is the rule above whatever i is. Growth then needs no loop. A key of in-degree d
    gains edges at rate (d + 1)^exponent * (tokens - 1 - d), so independent pure-birth clocks, one per key, stopped at
    the wanted number of births, are exactly the one-by-one process (Athreya and Karlin 1968); and since queries are
    exchangeable, which of them a key gained is a uniform draw.
    """
    check_preferential(tokens, density)
    generator = np.random.default_rng(seed)
    readers = _start(tokens, generator)  # [key, query]: the transpose, so that a key's readers lie together
    started = readers.sum(axis=1)
    in_degree = _grow(started, round(density * tokens**2) - tokens, exponent, generator)
    order = generator.integers(1, 2**32 - 1, size=(tokens, tokens), dtype=np.uint32)
    order[readers] = 0  # readers from the start come first
    np.fill_diagonal(order, 2**32 - 1)  # self is connected anyway and comes last
    ranked = np.sort(order, axis=1)
    last = np.take_along_axis(ranked, np.maximum(in_degree - 1, 0)[:, None], axis=1)
    graph = ((order <= last) & (in_degree > 0)[:, None]).T
    np.fill_diagonal(graph, True)
    return np.ascontiguousarray(graph)


def _start(tokens: int, generator: np.random.Generator) -> np.ndarray:
    """Return bool [key, query]: for each query two distinct keys, drawn uniformly among the others."""
    readers = np.zeros((tokens, tokens), dtype=bool)
    queries = np.arange(tokens)
    first = (queries + generator.integers(1, max(tokens, 2), size=tokens)) % tokens
    if tokens > 2:
        second = generator.integers(0, tokens - 2, size=tokens)  # of the tokens that are neither i nor its first
        low, high = np.minimum(queries, first), np.maximum(queries, first)
        second += second >= low
        second += second >= high
        readers[second, queries] = True
    if tokens > 1:
        readers[first, queries] = True
    return readers


def _grow(started: np.ndarray, edges: int, exponent: float, generator: np.random.Generator) -> np.ndarray:
    """Return int [key]: in-degrees when `edges` connections exist in all, grown from the in-degrees at the start."""
    tokens = len(started)
    births = edges - int(started.sum())
    if births <= 0:
        return started
    degree = np.arange(tokens - 1)
    rate = (degree + 1.0) ** exponent * (tokens - 1 - degree)
    waits = generator.standard_exponential((tokens, tokens - 1)) / rate  # of each key, at each in-degree
    waits[degree < started[:, None]] = 0
    times = np.cumsum(waits, axis=1, out=waits)
    times[degree < started[:, None]] = np.inf  # those edges exist already
    stop = np.partition(times, births - 1, axis=None)[births - 1]
    born = (times < stop).sum(axis=1)
    tied = (times == stop).sum(axis=1)  # large exponents underflow: births that no clock can tell apart
    left = births - int(born.sum())
    return started + born + np.clip(left - (np.cumsum(tied) - tied), 0, tied)


def check_preferential(tokens: int, density: float) -> None:
    """Raise `SpecError` if the starting connections alone exceed the density."""
    start = tokens * (1 + min(START_CONNECTIONS, tokens - 1))
    if round(density * tokens**2) < start:
        least = start / tokens**2
        raise spec_error(
            f"density D{density:g}",
            f"{tokens} tokens start with themselves and {START_CONNECTIONS} "
            f"connections each, a density of {least:.4g} already",
            f"D{min(1.0, 2 * least):.2g}A1",
        )


def hub_spoke(
    grid: tuple[int, int], hubs: int, nearest: int = 1, seed: int = 0, *, both_ways: bool = True
) -> np.ndarray:
    """Return bool [query, key]: hubs drawn uniformly, complete among themselves; the others tied to their nearest hubs.

    Nearest is by Manhattan distance on the grid, ties broken at random. The paper leaves open how many hubs a token is
    tied to and in which direction: `nearest` says the first, and spokes run both ways unless `both_ways` is False, when
    tokens read their hubs and hubs read hubs only. Raises `SpecError` if there are more hubs than tokens or fewer hubs
    than `nearest`.
    """
    check_hub_spoke(grid, hubs, nearest)
    generator = np.random.default_rng(seed)
    tokens = grid[0] * grid[1]
    chosen = np.sort(generator.choice(tokens, size=hubs, replace=False))
    spokes = np.setdiff1d(np.arange(tokens), chosen)
    graph = np.eye(tokens, dtype=bool)
    graph[np.ix_(chosen, chosen)] = True
    if len(spokes):
        distance = manhattan(grid)[np.ix_(spokes, chosen)] + generator.random((len(spokes), hubs), dtype=np.float32)
        closest = chosen[np.argpartition(distance, nearest - 1, axis=1)[:, :nearest]]
        graph[spokes[:, None], closest] = True
        if both_ways:
            graph[closest, spokes[:, None]] = True
    return graph


def check_hub_spoke(grid: tuple[int, int], hubs: int, nearest: int) -> None:
    """Raise `SpecError` if there are more hubs than tokens, or fewer hubs than each token is tied to."""
    tokens = grid[0] * grid[1]
    if hubs > tokens:
        raise spec_error(f"hubs K{hubs}", f"a {grid[0]}x{grid[1]} grid has {tokens} tokens", f"K{max(1, tokens // 4)}")
    if nearest > hubs:
        raise spec_error(f"nearest N{nearest}", f"there are only {hubs} hubs", f"K{hubs}N{hubs}")


def check_mask(mask: np.ndarray) -> None:
    """Raise `SpecError` unless the mask is a boolean [query, key] array in which every query may read some key.

    An empty row is zeros in fused attention and NaN in eager attention, so it is refused.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise spec_error("mask", f"it must be boolean [query, key], not {mask.dtype} {list(mask.shape)}", "R4S32")
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise spec_error(f"mask row {empty[0]}", f"{len(empty)} of {len(mask)} queries may read no key at all", "R4S32")


def density(mask: np.ndarray, layout: TokenLayout | None = None) -> float:
    """Return the share of True among the image-image pairs of the layout, self included; without one, of all pairs."""
    mask = np.asarray(mask, dtype=bool)
    if layout is not None:
        if mask.shape != (layout.size, layout.size):
            raise spec_error(
                f"mask {list(mask.shape)}", f"the layout has {layout.size} tokens", "density(spec.mask(layout), layout)"
            )
        mask = mask[layout.image, layout.image]
    check_mask(mask)
    return float(mask.mean())
