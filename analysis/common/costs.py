"""What each arm costs beside clean: network evaluations by count, measured time, and arithmetic, as shares.

A run with an arm that changes the network records it (`cost`, docs/schema.md). Steps in which an arm does not act are
clean steps and count as such. Nothing is judged here; error beside cost is `analysis.measures.tradeoff`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from analysis.common import runs, statistics

KINDS = ("evaluations", "time", "arithmetic")
"""What a cost may be measured in, in the order in which one is chosen where nobody names it."""
SAYS = {"evaluations": "network evaluations", "time": "measured time", "arithmetic": "multiply-adds"}
RESAMPLES = 1999
NOT_RECORDED = (
    "this run holds no costs: runs with an arm that changes the network (a cache, quantisation, fewer steps) record "
    "them; for masks, whose cost is that of clean evaluations, add --record cost"
)


def of_arms(run: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """`cost` (arm, kind, bound) of every arm over that of the clean one, NaN where unknown; `calls` (arm), how many
    timed calls its time rests on.

    evaluations: mean over the steps of the count. arithmetic: multiply-adds of all steps over the clean ones. time: the
    calls of one kind (steps of the same count) have the median of their paired ratios to the clean call of the same
    step; the kinds are weighed by their number of steps, and the interval resamples the pairs of each kind. Counts have
    no interval: their three bounds are equal. Raises RunError where the run recorded no costs.
    """
    if not runs.has(run, "cost/evaluations"):
        raise runs.RunError(NOT_RECORDED)
    counts = runs.get(run, "cost/evaluations").transpose("arm", "step").values.astype(float)
    seconds, arithmetic = (_of_steps(run, name) for name in ("seconds", "arithmetic"))
    arms = [str(arm) for arm in run["cost"].to_dataset()["arm"].values]
    clean = arms.index(runs.CLEAN)
    cost = np.full((len(arms), len(KINDS), 3), np.nan)
    calls = np.zeros(len(arms), int)
    for m in range(len(arms)):
        cost[m, 0] = counts[m].mean()
        cost[m, 1], calls[m] = _time(seconds[m], seconds[clean], counts[m], confidence, seed)
        cost[m, 2] = _arithmetic(arithmetic[m], arithmetic[clean])
    return xr.Dataset(
        {"cost": (("arm", "kind", "bound"), cost), "calls": ("arm", calls)},
        coords={"arm": arms, "kind": list(KINDS), "bound": list(statistics.BOUNDS)},
    )


def _of_steps(run: xr.DataTree, name: str) -> np.ndarray:
    """[arm, step]: what the call of a step took, NaN where not measured. All samples of the call hold its value."""
    values = runs.get(run, f"cost/{name}").transpose("arm", "step", "sample").values
    return np.fmax.reduce(values, axis=-1)


def _arithmetic(own: np.ndarray, clean: np.ndarray) -> float:
    """Of all steps; NaN where a step is not counted."""
    counted = np.isfinite(own).all() and np.isfinite(clean).all() and clean.sum() > 0
    return float(own.sum() / clean.sum()) if counted else np.nan


def _time(
    own: np.ndarray, clean: np.ndarray, counts: np.ndarray, confidence: float, seed: int
) -> tuple[np.ndarray, int]:
    """[low, estimate, high] of the share of time, from seconds [step], and the number of timed calls behind it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = own / clean
    if not np.isfinite(ratios).all():
        return np.full(3, np.nan), 0
    known = not np.isnan(counts).any()
    middle = np.median if known else np.mean  # steps of an unknown count are of several kinds
    labels = counts if known else np.zeros(len(counts))
    kinds = [ratios[labels == label] for label in np.unique(labels)]
    rng = np.random.default_rng(seed)

    def share(draw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.sum([len(kind) / len(counts) * middle(draw(kind), axis=-1) for kind in kinds], axis=0)

    replicates = share(lambda kind: kind[rng.integers(0, len(kind), (RESAMPLES, len(kind)))])
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return np.array([low, float(share(lambda kind: kind)), high]), int((own > 0).sum())


def in_words(cost: xr.Dataset, arm: str) -> str:
    """ "cache2: 0.52 of the clean evaluations, 0.55 of its time (28 calls), 0.53 of its multiply-adds"."""
    at = cost.sel(arm=arm)
    shares = {kind: float(at["cost"].sel(kind=kind, bound="estimate")) for kind in KINDS}
    count = int(at["calls"])
    said = [
        f"{shares['evaluations']:.2f} of the clean evaluations" if np.isfinite(shares["evaluations"]) else "",
        f"{shares['time']:.2f} of its time ({count} calls)" if np.isfinite(shares["time"]) else "",
        f"{shares['arithmetic']:.2f} of its multiply-adds" if np.isfinite(shares["arithmetic"]) else "",
    ]
    return f"{arm}: {', '.join(filter(None, said)) or 'unknown'}"
