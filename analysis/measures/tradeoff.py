"""Error beside cost: what each arm gets for what it takes, which arms no other beats in both, and fewer steps.

Costs come from the run's own record (`analysis.common.costs`), errors are those of the final state. The control is the
arm with fewer steps, or the clean arm of runs with fewer steps that are given beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from analysis.common import costs, divergence, pairing, runs, statistics
from analysis.measure import shipped
from analysis.measures import tradeoff_control as control
from analysis.measures import tradeoff_figure, tradeoff_words
from analysis.measures.quality import chosen_scores, values_of
from interventions.errors import RunError

FEWER = "fewer-steps"
"""The family of arms that are the control."""
PER_STEP = ("evaluations", "arithmetic")
"""Costs that a run of the same network with fewer steps takes in proportion to its steps."""


@shipped
def tradeoff(
    several: pairing.Runs,
    cost: str | None = None,
    metrics: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> xr.Dataset:
    """Final error and cost of every arm of the first run, with 95% intervals along `bound`; controls among them.

    `cost` (arm, bound), relative to clean and of the kind `attrs["cost"]` (evaluations, time, arithmetic; the first
    that every arm has). `error` (arm, bound): |delta| over the norm of the clean state, geometric mean over starts with
    its BCa interval; `systematic` (arm, bound) the same of the own-path sum N*, NaN where it was not recorded.
    `frontier` and `systematic_frontier` (arm): no other arm, the clean one included, has neither more cost nor more
    error and less of one. `control` (arm): whether it is one, an arm of the family fewer-steps or the clean arm of
    another run given.
    `control_error`, `ratio` (arm, bound): error of the control at the arm's cost, log error linear in log cost, and the
    arm's over it; `p`, `p_holm`, `answer`: whether it beats that, `why` an answer is withheld. `exact` (arm): samples
    without any error. `scores` (metric, arm, bound): change of a scored metric from clean, or distance to it.
    Raises RunError where no costs were recorded, and for runs beside the first that are no control of it.
    """
    first, *others = pairing.as_list(several)
    shares = costs.of_arms(first, seed=seed)
    lost = _lost(first)
    whole, *rest = pairing.shared([first, *others]) if others else [runs.complete(first)]
    names = runs.names(whole)
    if not names:
        raise RunError("no arm to compare: every one diverged, or the run has none but the clean one and the floor")
    starts = np.array(pairing.identities(whole, paths=False))
    kind = _chosen(cost, shares.sel(arm=names))
    paid = shares["cost"].sel(arm=names, kind=kind, drop=True).values
    total, systematic = _errors(whole, names)
    arms = runs.arms(whole)
    is_control = np.array([arm.family == FEWER and arm.whole for arm in arms])
    is_whole = np.array([arm.whole for arm in arms] + [True] * len(rest))
    for run, given in zip(rest, others, strict=True):
        name, share, errors = _beside(whole, run, kind)
        names, is_control = [*names, name], np.append(is_control, True)
        paid, total = np.vstack([paid, [[share] * 3]]), np.vstack([total, errors])
        systematic, lost = (
            np.vstack([systematic, np.full_like(errors, np.nan)]),
            lost | {name: _lost(given)[runs.CLEAN]},
        )
    dataset = xr.Dataset(
        {
            "cost": (("arm", "bound"), paid),
            "error": (("arm", "bound"), _geometric(total, starts, seed)),
            "systematic": (("arm", "bound"), _geometric(systematic, starts, seed)),
            "control": ("arm", is_control),
            "exact": ("arm", (total == 0).sum(axis=1)),
        },
        coords={"arm": names, "arm_whole": ("arm", is_whole), "bound": list(statistics.BOUNDS)},
    )
    for name, quantity in (("frontier", "error"), ("systematic_frontier", "systematic")):
        dataset[name] = "arm", frontier(paid[:, 1], dataset[quantity].sel(bound="estimate").values)
    dataset.update(
        _against_control(paid[:, 1], _of_starts(total, starts), is_control, np.array([lost[n] for n in names]), seed)
    )
    dataset.update(_scores(whole, names, metrics, seed))
    calls = np.append(shares["calls"].sel(arm=names[: len(names) - len(rest)]).values, [0] * len(rest))
    dataset["calls"] = "arm", calls.astype(int)
    dataset.attrs = {
        "title": runs.title(first), "samples": len(starts), "starts": len(set(starts)), "cost": kind,
        "margin": control.MARGIN,
    }  # fmt: skip
    return dataset


def _lost(run: xr.DataTree) -> dict[str, int]:
    """Arm -> how many samples diverged under it; of the clean arm alone, which takes every pair along, as well."""
    seen = divergence.outcome(run)
    return {name: int((row == divergence.FAILED).sum()) for name, row in zip(seen.arms, seen.status, strict=True)}


def _chosen(asked: str | None, shares: xr.Dataset) -> str:
    """The kind of cost: the one asked for, else the first that all arms have; RunError where there is none."""
    known = shares["cost"].sel(bound="estimate").notnull()
    if asked is not None:
        if not known.sel(kind=asked).any():
            raise RunError(
                f"--cost {asked}: {costs.SAYS[asked]} are known of no arm of this run; "
                f"{' and '.join(kind for kind in costs.KINDS if known.sel(kind=kind).any()) or 'none'} are"
            )
        return asked
    return next((kind for kind in costs.KINDS if known.sel(kind=kind).all()), costs.KINDS[0])


def _errors(run: xr.DataTree, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Total and systematic error of these arms, [arm, sample] each, relative to the clean final state."""
    last = run["metrics"].to_dataset()[["delta_l2", "delta_rel"]].isel(step=-1).sel(arm=list(names))
    total = last["delta_rel"].transpose("arm", "sample").values.astype(np.float64)
    if not runs.has(run, "decomposition/own_sum"):
        return total, np.full_like(total, np.nan)
    own: np.ndarray = runs.get(run, "decomposition/own_sum").sel(arm=list(names)).transpose("arm", "sample", ...).values
    energy = (own.astype(np.float64) ** 2).reshape(*total.shape, -1).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = last["delta_l2"].transpose("arm", "sample").values.astype(np.float64) / total
    return total, np.sqrt(energy) / np.fmax.reduce(np.where(total > 0, sizes, np.nan), axis=0)


def _beside(first: xr.DataTree, other: xr.DataTree, kind: str) -> tuple[str, float, np.ndarray]:
    """The clean arm of a run with fewer steps: what it is called, its cost and its errors [sample]."""
    pairing.same_experiment([first, other])
    steps, fewer = (run["metrics"].sizes["step"] for run in (first, other))
    if fewer >= steps:
        raise RunError(
            f"a run of {fewer} steps is no control of one of {steps}: give the run with the arms first, then runs of "
            "the same model and starts with fewer --steps"
        )
    if runs.stochastic(first) and runs.configuration(first).get("noise") != "coupled":
        raise RunError(
            f"{runs.sampler(first)} draws noise, which two runs of other --steps do not share: make both with --noise "
            f"coupled, or take fewer steps as an arm, --arm steps{fewer}"
        )
    one, two = (runs.clean_final(run).astype(np.float64).values for run in (first, other))
    axes = tuple(range(1, one.ndim))
    errors = np.sqrt(((two - one) ** 2).sum(axes) / (one**2).sum(axes))
    return f"clean, {fewer} steps", fewer / steps if kind in PER_STEP else np.nan, errors


def _of_starts(errors: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[arm, start]: geometric mean over the noise paths of each start; 0 where one of them has no error."""
    with np.errstate(divide="ignore"):
        logs = np.log(errors)
    return np.exp(np.stack([logs[:, starts == start].mean(axis=1) for start in dict.fromkeys(starts)], axis=1))


def _geometric(errors: np.ndarray, starts: np.ndarray, seed: int) -> np.ndarray:
    """[arm, bound] of errors [arm, sample]: geometric mean over starts, BCa; starts without error are left out, and 0
    where none has any."""
    each = _of_starts(errors, starts)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = statistics.bca(np.where(each > 0, np.log(each), np.nan), seed=seed)
    limits = np.exp(np.stack([found.low, found.estimate, found.high], axis=-1))
    limits[(each == 0).all(axis=1)] = 0.0
    return limits


def frontier(cost: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Bool [arm]: whether no other point, (1, 0) of the clean arm among them, is as good in both and better in one.

    Points with an unknown coordinate are on no frontier and beat none.
    """
    x, y = np.append(cost, 1.0), np.append(error, 0.0)
    known = np.isfinite(x) & np.isfinite(y)
    beaten = (
        (x[None] <= x[:, None]) & (y[None] <= y[:, None]) & ((x[None] < x[:, None]) | (y[None] < y[:, None]))
    ) & known
    return (known & ~beaten.any(axis=1))[:-1]


def _against_control(
    cost: np.ndarray, errors: np.ndarray, is_control: np.ndarray, lost: np.ndarray, seed: int
) -> dict[str, Any]:
    """The variables that say how each arm does beside fewer steps; errors [arm, start]."""
    points = np.flatnonzero(is_control & np.isfinite(cost))
    lost_there = int(lost[points].max(initial=0))
    found = []
    for m in range(len(cost)):
        if is_control[m]:
            found.append(control.Beside(control.IS_CONTROL))
        elif not np.isfinite(cost[m]):
            found.append(control.Beside(control.NO_CONTROL, why="its cost is unknown"))
        else:
            there = control.errors_at(float(cost[m]), cost[points], errors[points])
            found.append(control.beside(errors[m], there, diverged=(int(lost[m]), lost_there), seed=seed))
    answers, p_holm = control.corrected(found)
    if points.size:
        reach = f"fewer steps reach from {cost[points].min():.2f} to {cost[points].max():.2f}"
        found = [replace(one, why=one.why or reach) if one.answer == control.NO_CONTROL else one for one in found]
    return {
        "ratio": (("arm", "bound"), np.array([one.ratio for one in found])),
        "control_error": ("arm", np.array([one.control for one in found])),
        "p": ("arm", np.array([one.p for one in found])),
        "p_holm": ("arm", p_holm),
        "answer": ("arm", np.array(answers, dtype=str)),
        "why": ("arm", np.array([one.why for one in found], dtype=str)),
    }


def _scores(
    run: xr.DataTree, names: Sequence[str], metrics: str | Sequence[str] | None, seed: int
) -> dict[str, xr.DataArray]:
    """`scores` (metric, arm, bound) of the metrics asked for; empty where none is."""
    if not metrics:
        return {}
    if "scores" not in run.children:
        raise RunError("the pictures of this run are not scored yet: measure them with `trace score RUN`")
    stored = {name: node.to_dataset() for name, node in run["scores"].children.items()}
    chosen, _ = chosen_scores(stored, [metrics] if isinstance(metrics, str) else metrics)
    values = np.full((len(chosen), len(names), 3), np.nan)
    for k, group in enumerate(chosen.values()):
        if "features" in group:
            raise RunError(
                "tradeoff shows metrics of single pictures; distances of sets are in `trace analyze quality`"
            )
        scored = values_of(group)
        for m, name in enumerate(names):
            if name not in scored["arm"].values:
                continue
            own = scored.sel(arm=name).values
            apart = own - scored.sel(arm=runs.CLEAN).values if group.attrs["kind"] == "score" else own
            limits = statistics.bca(apart, seed=seed)
            values[k, m] = limits.low, limits.estimate, limits.high
    coords = {"metric": list(chosen), "arm": list(names), "bound": list(statistics.BOUNDS)}
    titles = [group.attrs.get("title", name) for name, group in chosen.items()]
    return {
        "scores": xr.DataArray(values, dims=("metric", "arm", "bound"), coords=coords),
        "score_title": xr.DataArray(titles, dims="metric", coords={"metric": list(chosen)}),
    }


tradeoff.presents("table")(tradeoff_words.table)
tradeoff.presents("sentence")(tradeoff_words.sentence)
tradeoff.presents("figure")(tradeoff_figure.figure)
