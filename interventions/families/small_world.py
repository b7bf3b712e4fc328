"""Small-world masks `R4S32`: a Manhattan ball and shortcuts; `R4S0` is local only, `R0S32` random only.

Everything of the family is here: value, grammar, graph, and the three solvers "small-world", "local" and "random".
Source: the masking paper, "Probing information flow in vision transformers through controlled attention perturbation"
(Sci4DL 2026).
"""

import functools
import math
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interventions.errors import spec_error
from interventions.families.base import Candidate, Graph
from interventions.graphs import Grid, manhattan
from interventions.scope import NUMBER, read_number, whole
from interventions.segments import shown

LARGEST_SOLVED_RADIUS = 4  # of the masking paper's R4S32
LARGEST_LOCAL_SHARE = 0.75  # of a small world's connections: at least a quarter are shortcuts
PAIRS_AT_ONCE = 2**24  # of queries and keys: a video of 32760 tokens would else take 20 GB for a mask of 1 GB
_HEAD = re.compile(f"R{NUMBER}S{NUMBER}")


@dataclass(frozen=True)
class SmallWorld(Graph):
    """`R4S32`: a Manhattan ball and directed shortcuts per query (the masking paper); see `small_world`."""

    radius: int
    shortcuts: int
    heads: ClassVar[tuple[str, ...]] = ("R4S32",)
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (rf"R{NUMBER}", r"R\1S0", "shortcuts are missing"),
        (rf"S{NUMBER}(?:R{NUMBER})?", r"R\2S\1", "the radius comes first"),
        (rf"R{NUMBER}x?S{NUMBER}", r"R\1S\2", "write it without separators, in capitals"),
    )
    solvers: ClassVar[tuple[str, ...]] = ("small-world", "local", "random")
    knows_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse negative or fractional sizes."""
        object.__setattr__(self, "radius", whole("radius R", self.radius, 0, "R4S32"))
        object.__setattr__(self, "shortcuts", whole("shortcuts S", self.shortcuts, 0, "R4S32"))
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> "SmallWorld | None":
        """Read `R4S32`."""
        match = _HEAD.fullmatch(head)
        return cls(read_number(match[1]), read_number(match[2])) if match else None  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"R{self.radius}S{self.shortcuts}"

    @property
    def family(self) -> str:
        """Name of the family; without shortcuts it is "local", without a ball "random"."""
        return "local" if not self.shortcuts else "random" if not self.radius else "small-world"

    @property
    def drawn(self) -> bool:
        """Whether chance is involved: only shortcuts are drawn."""
        return self.shortcuts > 0

    def graph(self, grid: Grid, seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        return small_world(grid, self.radius, self.shortcuts, seed)

    def check_grid(self, grid: Grid) -> None:
        """Raise `SpecError` if the radius or the shortcuts exceed what the grid holds."""
        check_small_world(grid, self.radius, self.shortcuts)

    @classmethod
    def candidates(cls, solver: str, target: float, grid: Grid) -> list[Candidate]:
        """Return the values near a target density, for "small-world", "local" or "random"."""
        return {"small-world": _both, "local": _local, "random": _random}[solver](target, grid)


def small_world(grid: Grid, radius: int, shortcuts: int, seed: int = 0) -> np.ndarray:
    """Return bool [query, key]: a Manhattan ball clipped at the border, plus directed shortcuts from outside it.

    Shortcuts are drawn uniformly without replacement, `shortcuts` per query; a query with fewer keys outside its ball
    takes them all. With one seed the shortcuts of a smaller number are among those of a larger. Raises `SpecError` if
    the radius exceeds the grid or no query has that many keys outside its ball.
    """
    check_small_world(grid, radius, shortcuts)
    tokens, generator = math.prod(grid), np.random.default_rng(seed)
    graph = np.empty((tokens, tokens), dtype=bool)
    for start in range(0, tokens, max(1, PAIRS_AT_ONCE // tokens)):
        rows = graph[start : start + max(1, PAIRS_AT_ONCE // tokens)]
        rows[:] = manhattan(grid, slice(start, start + len(rows))) <= radius
        if shortcuts:
            order = generator.random(rows.shape, dtype=np.float32)
            order[rows] = 2.0  # above every draw: the ball is never chosen again
            chosen = np.argpartition(order, shortcuts - 1, axis=1)[:, :shortcuts]
            np.put_along_axis(rows, chosen, True, axis=1)
    return graph


def ball_sizes(grid: Grid, radius: int) -> np.ndarray:
    """Return int [token]: how many cells lie within the Manhattan radius of each cell, itself included."""
    side, *rest = grid
    if not rest:
        cells = np.arange(side)
        return np.minimum(cells + radius, side - 1) - np.maximum(cells - radius, 0) + 1
    apart = [ball_sizes(tuple(rest), radius - steps) for steps in range(min(radius, side - 1) + 1)]
    within = [range(max(0, place - radius), min(side, place + radius + 1)) for place in range(side)]
    return np.concatenate([sum(apart[abs(place - other)] for other in within[place]) for place in range(side)])


def check_small_world(grid: Grid, radius: int, shortcuts: int) -> None:
    """Raise `SpecError` if the radius or the shortcuts exceed what the grid holds."""
    widest = sum(grid) - len(grid)
    if radius > widest:
        raise spec_error(
            f"radius R{radius}",
            f"on a {shown(grid)} grid no two tokens are that far apart; the largest is {widest}",
            f"R{min(4, widest)}S0",
        )
    outside = math.prod(grid) - int(ball_sizes(grid, radius).min())
    if shortcuts > outside:
        raise spec_error(
            f"shortcuts S{shortcuts}",
            f"on a {shown(grid)} grid at most {outside} keys lie outside the ball of radius {radius}",
            f"R{radius}S{outside}",
        )


def _local(target: float, grid: Grid) -> list[Candidate]:
    """RxS0 of all radii; how many pairs lie at each Manhattan distance is the convolution of all axes' pairs."""
    pairs = (np.array([side, *(2 * (side - apart) for apart in range(1, side))]) for side in grid)
    shares = np.cumsum(functools.reduce(np.convolve, pairs)) / math.prod(grid) ** 2
    return [(SmallWorld(radius, 0), float(shares[radius])) for radius in range(1, len(shares))]


def _random(target: float, grid: Grid) -> list[Candidate]:
    """R0Sy of the numbers of shortcuts around the target, and the extremes."""
    return _shortcuts(target, grid, radius=0)


def _both(target: float, grid: Grid) -> list[Candidate]:
    """RxSy, x the largest radius up to 4 whose ball takes at most three quarters of the connections, else 1."""
    connections = target * math.prod(grid)  # of a query
    radii = range(1, min(LARGEST_SOLVED_RADIUS, sum(grid) - len(grid)) + 1)
    fitting = [radius for radius in radii if ball_sizes(grid, radius).mean() <= LARGEST_LOCAL_SHARE * connections]
    return _shortcuts(target, grid, radius=max(fitting, default=1))


def _shortcuts(target: float, grid: Grid, radius: int) -> list[Candidate]:
    """Shortcuts near the target for one radius; a query takes at most what lies outside its ball."""
    tokens = math.prod(grid)
    balls = ball_sizes(grid, radius)

    def density(shortcuts: int) -> float:
        return float(np.minimum(balls + shortcuts, tokens).mean()) / tokens

    most = tokens - int(balls.min())
    low, high = 1, most
    while low < high:  # the first number that reaches the target
        middle = (low + high) // 2
        low, high = (low, middle) if density(middle) >= target else (middle + 1, high)
    near = {shortcuts for shortcuts in (1, low - 1, low, most) if 1 <= shortcuts <= most}
    return [(SmallWorld(radius, shortcuts), density(shortcuts)) for shortcuts in sorted(near)]
