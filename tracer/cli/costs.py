"""What arms that change the network cost beside clean, in lines: by count before a run, as measured after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

    from tracer.plan import Plan

MOST_ARMS = 8


def counted(plan: Plan) -> str:
    """ "cache2 0.50, steps14 0.50 of the clean evaluations (by count)"; "" where no arm changes the network."""
    if "cost" not in plan.record:
        return ""
    from interventions.changes.base import Change
    from tracer.cost import evaluations

    shares = zip(plan.arms, evaluations(plan).mean(axis=1).tolist(), strict=True)
    named = [
        f"{arm.name} unknown" if math.isnan(share) else f"{arm.name} {share:.2f}"
        for arm, share in shares
        if isinstance(arm.spec, Change)
    ]
    return f"{_few(named, ', ')} of the clean evaluations, by count" if named else ""


def measured(tree: xr.DataTree) -> list[str]:
    """A line for every arm whose cost is not that of a clean call by definition; none where costs are not recorded."""
    from analysis.common import costs, runs

    if not runs.has(tree, "cost/evaluations"):
        return []
    found = costs.of_arms(tree)
    return [costs.in_words(found, str(arm)) for arm in found["arm"].values[1:] if _changes(found.sel(arm=arm))]


def _changes(at: xr.Dataset) -> bool:
    """Whether an arm is one that changes the network: timed, or not one evaluation a step. Masks are neither."""
    evaluations, time, _ = at["cost"].sel(bound="estimate").values.tolist()
    return evaluations != 1 or math.isfinite(time)


def _few(texts: Sequence[str], between: str) -> str:
    rest = f" … ({len(texts)} in all)" if len(texts) > MOST_ARMS else ""
    return between.join(texts[:MOST_ARMS]) + rest


def few_lines(lines: Sequence[str]) -> str:
    """The first of these lines as one text."""
    return _few(lines, "; ")
