"""From a target density to the intervention of a family that comes closest to it.

The same R and S are another sparsity on another grid, so sweeps are keyed on density. The families give the candidates
and their densities in closed form; here is only the choice. No graph is drawn.
"""

from interventions.errors import SpecError, spec_error
from interventions.families import density_families, every_family
from interventions.families.base import Candidate, Intervention, check_frames
from interventions.graphs import Grid
from interventions.layout import TokenLayout
from interventions.naming import closest
from interventions.segments import shown

TOLERANCE = 0.25  # relative: R3S0 (10.8%) still answers 13% on a 14x14 grid, and a sweep reports the density it got


def solve_density(family: str, target: float, layout: TokenLayout) -> Intervention:
    """Return the intervention of a family whose image-image density, self included, is closest to `target` (0, 1].

    Which parameters are solved for, one rule per family:
    "local": RxS0, the radius. "random": R0Sy, the shortcuts. "small-world": RxSy with x the largest radius up to 4
    whose ball takes at most three quarters of the target's connections (else 1), then the shortcuts, at least one.
    "preferential": D<target>A1. "hub-spoke": K hubs with every other token tied to its one nearest hub, both ways.
    Raises `SpecError` for an unknown family, and where the closest density misses the target by more than 25% of it;
    the message names what can be reached.
    """
    names = density_families()
    if family not in names:
        likely = closest(str(family), names)
        hint = f"; did you mean {likely}?" if likely else ""
        example = f"solve_density({likely or 'small-world'!r}, 0.25, layout)"
        raise spec_error(f"family {family!r}", f"it is one of {', '.join(names)}{hint}", example)
    if not 0 < target <= 1:
        raise spec_error(f"density {target:g}", "it is a share of all pairs, above 0 and at most 1", "0.25")
    if not layout.image_tokens:
        raise spec_error("layout", "it has no image tokens for a graph", "TokenLayout(grid=(16, 16))")
    owner = next(own for own in every_family() if family in own.solvers)
    check_frames(owner, family, layout)
    candidates = owner.candidates(family, target, layout.cells)
    if not candidates:
        raise spec_error(f"layout {shown(layout.cells)}", f"no {family} graph fits on it", "grid=(16, 16)")
    best, reached = min(candidates, key=lambda candidate: abs(candidate[1] - target))
    if abs(reached - target) > TOLERANCE * target:
        raise _unreachable(family, target, layout.cells, candidates)
    return best


def _unreachable(family: str, target: float, grid: Grid, candidates: list[Candidate]) -> SpecError:
    """Return the error for a density that a family cannot have, with the ones below and above it."""
    ordered = sorted(candidates, key=lambda candidate: candidate[1])
    lower = [candidate for candidate in ordered if candidate[1] <= target][-1:]
    upper = [candidate for candidate in ordered if candidate[1] > target][:1]
    neighbours = " and ".join(f"{spec} ({share:.4g})" for spec, share in lower + upper)
    why = (
        f"{family} on a {shown(grid)} grid reaches {ordered[0][1]:.4g} to {ordered[-1][1]:.4g}; "
        f"the nearest {'are' if lower and upper else 'is'} {neighbours}"
    )
    nearest = min(ordered, key=lambda candidate: abs(candidate[1] - target))[1]
    return spec_error(f"density {target:g}", why, f"density {nearest:.4g}")
