"""Preferential attachment masks `D0.25A1`: density 0.25, exponent 1.

Everything of the family is here: value, grammar, graph and solver. The graph is grown without a loop over edges and is
exactly the one-by-one process. Source: the masking paper (Sci4DL 2026); see `small_world`.
"""

import math
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interventions.errors import spec_error
from interventions.families.base import Candidate, Graph
from interventions.graphs import Grid
from interventions.scope import NUMBER, as_text

LARGEST_EXPONENT = 10  # beyond it a few keys take everything at once and the number only costs precision
START_CONNECTIONS = 2  # of a token, besides itself, before preferential attachment grows
_HEAD = re.compile(f"D{NUMBER}A{NUMBER}")


@dataclass(frozen=True)
class Preferential(Graph):
    """`D0.25A1`: preferential attachment up to a density (the masking paper); see `preferential`."""

    density: float
    exponent: float = 1.0
    example: ClassVar[str] = "D0.25A1"
    heads: ClassVar[tuple[str, ...]] = ("D0.25A1",)
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (rf"D{NUMBER}", r"D\1A1", "the exponent is missing"),
        (rf"A{NUMBER}D{NUMBER}", r"D\2A\1", "the density comes first"),
        (rf"D{NUMBER}[^\d.]*A{NUMBER}", r"D\1A\2", "write it without separators, in capitals"),
    )
    solvers: ClassVar[tuple[str, ...]] = ("preferential",)
    knows_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse densities outside (0, 1] and exponents outside [0, 10]."""
        density, exponent = float(self.density), float(self.exponent)
        if not 0 < density <= 1:
            percent = 1 < density <= 100
            example = f"D{as_text(density / 100)}A{as_text(exponent)}" if percent else "D0.25A1"
            raise spec_error(
                f"density D{as_text(density)}", "it is a share of all pairs, above 0 and at most 1", example
            )
        if not 0 <= exponent <= LARGEST_EXPONENT:
            raise spec_error(f"exponent A{as_text(exponent)}", f"it lies between 0 and {LARGEST_EXPONENT}", "D0.25A1")
        object.__setattr__(self, "density", density)
        object.__setattr__(self, "exponent", exponent + 0.0)
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> "Preferential | None":
        """Read `D0.25A1`."""
        match = _HEAD.fullmatch(head)
        return cls(float(match[1]), float(match[2])) if match else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"D{as_text(self.density)}A{as_text(self.exponent)}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "preferential"

    def graph(self, grid: Grid, seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        return preferential(math.prod(grid), self.density, self.exponent, seed)

    def check_grid(self, grid: Grid) -> None:
        """Raise `SpecError` if the starting connections alone exceed the density."""
        check_preferential(math.prod(grid), self.density)

    @classmethod
    def candidates(cls, solver: str, target: float, grid: Grid) -> list[Candidate]:
        """Return the target itself with exponent 1, or the density that growth starts from."""
        tokens = math.prod(grid)
        least = (1 + min(START_CONNECTIONS, tokens - 1)) / tokens
        if round(target * tokens**2) >= round(least * tokens**2):
            return [(cls(target, 1.0), target)]
        return [(cls(least, 1.0), least), (cls(1.0, 1.0), 1.0)]


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
