"""From a target density to the intervention of a family that comes closest to it.

The same R and S are another sparsity on another grid, so sweeps are keyed on density. Densities are of image-image
pairs, self included, and come from closed forms; no graph is drawn here.
"""

from collections.abc import Callable

import numpy as np

from interventions.errors import SpecError, spec_error
from interventions.families import HubSpoke, Intervention, Preferential, SmallWorld
from interventions.graphs import START_CONNECTIONS, ball_sizes
from interventions.layout import TokenLayout
from interventions.scope import closest

TOLERANCE = 0.25  # relative: R3S0 (10.8%) still answers 13% on a 14x14 grid, and a sweep reports the density it got
SMALL_WORLD_RADIUS = 4  # of the source paper's R4S32
LARGEST_LOCAL_SHARE = 0.75  # of a small world's connections: at least a quarter are shortcuts
Candidate = tuple[Intervention, float]  # and the density it has


def solve_density(family: str, target: float, layout: TokenLayout) -> Intervention:
    """Return the intervention of a family whose image-image density, self included, is closest to `target` (0, 1].

    Which parameters are solved for, one rule per family:
    "local": RxS0, the radius. "random": R0Sy, the shortcuts. "small-world": RxSy with x the largest radius up to 4
    whose ball takes at most three quarters of the target's connections (else 1), then the shortcuts, at least one.
    "preferential": D<target>A1. "hub-spoke": K hubs with every other token tied to its one nearest hub, both ways.
    Raises `SpecError` for an unknown family, and where the closest density misses the target by more than 25% of it;
    the message names what can be reached.
    """
    if family not in _SOLVERS:
        likely = closest(str(family), _SOLVERS)
        hint = f"; did you mean {likely}?" if likely else ""
        example = f"solve_density({likely or 'small-world'!r}, 0.25, layout)"
        raise spec_error(f"family {family!r}", f"it is one of {', '.join(_SOLVERS)}{hint}", example)
    if not 0 < target <= 1:
        raise spec_error(f"density {target:g}", "it is a share of all pairs, above 0 and at most 1", "0.25")
    if not layout.image_tokens:
        raise spec_error("layout", "it has no image tokens for a graph", "TokenLayout(grid=(16, 16))")
    candidates = _SOLVERS[family](target, layout.grid)
    if not candidates:
        raise spec_error(f"layout {layout.grid[0]}x{layout.grid[1]}", f"no {family} graph fits on it", "grid=(16, 16)")
    best, reached = min(candidates, key=lambda candidate: abs(candidate[1] - target))
    if abs(reached - target) > TOLERANCE * target:
        raise _unreachable(family, target, layout.grid, candidates)
    return best


def _local(target: float, grid: tuple[int, int]) -> list[Candidate]:
    """All radii; how many pairs lie at each Manhattan distance is the convolution of both axes' pairs."""
    rows, columns = (np.array([side, *(2 * (side - apart) for apart in range(1, side))]) for side in grid)
    shares = np.cumsum(np.convolve(rows, columns)) / (grid[0] * grid[1]) ** 2
    return [(SmallWorld(radius, 0), float(shares[radius])) for radius in range(1, len(shares))]


def _random(target: float, grid: tuple[int, int]) -> list[Candidate]:
    """The numbers of shortcuts around the target, and the extremes."""
    return _shortcuts(target, grid, radius=0)


def _small_world(target: float, grid: tuple[int, int]) -> list[Candidate]:
    """The numbers of shortcuts around the target for the radius of the rule, and the extremes."""
    wanted = target * grid[0] * grid[1]
    radii = range(1, min(SMALL_WORLD_RADIUS, sum(grid) - 2) + 1)
    fitting = [radius for radius in radii if ball_sizes(grid, radius).mean() <= LARGEST_LOCAL_SHARE * wanted]
    return _shortcuts(target, grid, radius=max(fitting, default=1))


def _shortcuts(target: float, grid: tuple[int, int], radius: int) -> list[Candidate]:
    """Shortcuts near the target for one radius; a query takes at most what lies outside its ball."""
    tokens = grid[0] * grid[1]
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


def _preferential(target: float, grid: tuple[int, int]) -> list[Candidate]:
    """The target itself, or the density that growth starts from."""
    tokens = grid[0] * grid[1]
    least = (1 + min(START_CONNECTIONS, tokens - 1)) / tokens
    if round(target * tokens**2) >= round(least * tokens**2):
        return [(Preferential(target, 1.0), target)]
    return [(Preferential(least, 1.0), least), (Preferential(1.0, 1.0), 1.0)]


def _hub_spoke(target: float, grid: tuple[int, int]) -> list[Candidate]:
    """All numbers of hubs, each other token tied to one."""
    tokens = grid[0] * grid[1]
    hubs = np.arange(1, tokens + 1)
    pairs = tokens + hubs * (hubs - 1) + 2 * (tokens - hubs)
    return [(HubSpoke(int(count)), float(share)) for count, share in zip(hubs, pairs / tokens**2, strict=True)]


def _unreachable(family: str, target: float, grid: tuple[int, int], candidates: list[Candidate]) -> SpecError:
    """Return the error for a density that a family cannot have, with the ones below and above it."""
    ordered = sorted(candidates, key=lambda candidate: candidate[1])
    lower = [candidate for candidate in ordered if candidate[1] <= target][-1:]
    upper = [candidate for candidate in ordered if candidate[1] > target][:1]
    neighbours = " and ".join(f"{spec} ({share:.4g})" for spec, share in lower + upper)
    why = (
        f"{family} on a {grid[0]}x{grid[1]} grid reaches {ordered[0][1]:.4g} to {ordered[-1][1]:.4g}; "
        f"the nearest {'are' if lower and upper else 'is'} {neighbours}"
    )
    nearest = min(ordered, key=lambda candidate: abs(candidate[1] - target))[1]
    return spec_error(f"density {target:g}", why, f"density {nearest:.4g}")


_SOLVERS: dict[str, Callable[[float, tuple[int, int]], list[Candidate]]] = {
    "small-world": _small_world,
    "local": _local,
    "random": _random,
    "preferential": _preferential,
    "hub-spoke": _hub_spoke,
}
