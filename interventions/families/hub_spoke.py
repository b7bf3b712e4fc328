"""Hub-spoke masks `K64N8`: 64 hubs, every other token tied to its 8 nearest; `K64` ties it to the nearest one.

Everything of the family is here: value, grammar, graph and solver. Source: the masking paper (Sci4DL 2026); see
`small_world`.
"""

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

_HEAD = re.compile(f"K{NUMBER}(?:N{NUMBER})?(-oneway)?")


@dataclass(frozen=True)
class HubSpoke(Graph):
    """`K64N8`: hubs complete among themselves, other tokens tied to their nearest (the masking paper)."""

    hubs: int
    nearest: int = 1
    both_ways: bool = True
    example: ClassVar[str] = "K64N8"
    heads: ClassVar[tuple[str, ...]] = ("K64N8",)
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (rf"K{NUMBER}[^\d.]*N{NUMBER}", r"K\1N\2", "write it without separators, in capitals"),
        (rf"K{NUMBER}", r"K\1", "write it in capitals"),
    )
    solvers: ClassVar[tuple[str, ...]] = ("hub-spoke",)
    knows_frames: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse counts below 1 and more nearest hubs than hubs."""
        object.__setattr__(self, "hubs", whole("hubs K", self.hubs, 1, "K64N8"))
        object.__setattr__(self, "nearest", whole("nearest N", self.nearest, 1, "K64N8"))
        if self.nearest > self.hubs:
            raise spec_error(
                f"nearest N{self.nearest}", f"there are only {self.hubs} hubs", f"K{self.hubs}N{self.hubs}"
            )
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> "HubSpoke | None":
        """Read `K64N8`, `K64` and `K64N8-oneway`."""
        match = _HEAD.fullmatch(head)
        if not match:
            return None
        return cls(read_number(match[1]), read_number(match[2] or "1"), not match[3])  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The spec without its scope."""
        nearest = f"N{self.nearest}" if self.nearest != 1 else ""
        return f"K{self.hubs}{nearest}{'' if self.both_ways else '-oneway'}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "hub-spoke"

    def graph(self, grid: Grid, seed: int = 0) -> np.ndarray:
        """Return the graph itself: bool [image query, image key]."""
        return hub_spoke(grid, self.hubs, self.nearest, seed, both_ways=self.both_ways)

    def check_grid(self, grid: Grid) -> None:
        """Raise `SpecError` if there are more hubs than tokens."""
        check_hub_spoke(grid, self.hubs, self.nearest)

    @classmethod
    def candidates(cls, solver: str, target: float, grid: Grid) -> list[Candidate]:
        """Return all numbers of hubs, each other token tied to one, both ways."""
        tokens = math.prod(grid)
        hubs = np.arange(1, tokens + 1)
        pairs = tokens + hubs * (hubs - 1) + 2 * (tokens - hubs)
        return [(cls(int(count)), float(share)) for count, share in zip(hubs, pairs / tokens**2, strict=True)]


def hub_spoke(grid: Grid, hubs: int, nearest: int = 1, seed: int = 0, *, both_ways: bool = True) -> np.ndarray:
    """Return bool [query, key]: hubs drawn uniformly, complete among themselves; the others tied to their nearest hubs.

    Nearest is by Manhattan distance on the grid (over rows, columns and frames), ties broken at random. The paper
    leaves open how many hubs a token is tied to and in which direction: `nearest` says the first, and spokes run both
    ways unless `both_ways` is False, when tokens read their hubs and hubs read hubs only. Raises `SpecError` if there
    are more hubs than tokens or fewer hubs than `nearest`.
    """
    check_hub_spoke(grid, hubs, nearest)
    generator = np.random.default_rng(seed)
    tokens = math.prod(grid)
    chosen = np.sort(generator.choice(tokens, size=hubs, replace=False))
    spokes = np.setdiff1d(np.arange(tokens), chosen)
    graph = np.eye(tokens, dtype=bool)
    graph[np.ix_(chosen, chosen)] = True
    if len(spokes):
        distance = manhattan(grid, spokes, chosen) + generator.random((len(spokes), hubs), dtype=np.float32)
        closest = chosen[np.argpartition(distance, nearest - 1, axis=1)[:, :nearest]]
        graph[spokes[:, None], closest] = True
        if both_ways:
            graph[closest, spokes[:, None]] = True
    return graph


def check_hub_spoke(grid: Grid, hubs: int, nearest: int) -> None:
    """Raise `SpecError` if there are more hubs than tokens, or fewer hubs than each token is tied to."""
    tokens = math.prod(grid)
    if hubs > tokens:
        raise spec_error(f"hubs K{hubs}", f"a {shown(grid)} grid has {tokens} tokens", f"K{max(1, tokens // 4)}")
    if nearest > hubs:
        raise spec_error(f"nearest N{nearest}", f"there are only {hubs} hubs", f"K{hubs}N{hubs}")
