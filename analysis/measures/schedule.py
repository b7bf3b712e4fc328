"""Which steps and layers may be approximated: from the errors of single cells to a schedule and its test.

A cell is an arm that acts in one row of steps, in some layers. If errors only add, the errors of the cells say what
any schedule made of them will do. Where they do not add, the arms that were run as a whole show it, and the sentence
says that the prediction failed. Drawing is `schedule_figure`, the words are `schedule_words`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from analysis.common import runs
from analysis.common.statistics import BOUNDS
from analysis.measure import shipped
from analysis.measures import schedule_figure, schedule_words
from analysis.schedules import predict
from analysis.schedules.cells import Cells, of_run
from analysis.schedules.measured import Tested, beside, fresh, tested
from analysis.schedules.predict import Plans
from interventions import rules

HELD = ("ddpm", "ddim", "flow")
"""Samplers in which fewer steps are an arm of the same run (`steps12`): what a cache has to beat at equal cost."""
SAVING = 0.5
"""Share of the block evaluations saved, where neither a saving nor a budget is asked for."""


@shipped
def schedule(
    run: xr.DataTree,
    *,
    budget: float | None = None,
    saving: float | None = None,
    of: str | None = None,
    measured: xr.DataTree | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """The schedule of least predicted error at every saving, beside uniform and first quarter exact; and its test.

    Errors are root mean squares over samples and elements of the final state, in standard deviations of clean results.
    Dimension `plan`: `approximated` steps' worth of block evaluations, `saving` their share; `expected` of schedules
    chosen on half of the samples and predicted on the other (bound), `same` chosen and predicted on all, `of_rule`
    (rule, plan, bound) of the usual rules. `size` (step, layer): error of one approximated step in the layers that
    were approximated together. `chosen` (step, layer) is the plan that is asked for: the cheapest whose `expected` is
    within `budget`, or the best with at least this share `saving` (default .5). Dimension `proposal`: it and the rules
    at its cost, with `in_quadrature` and `sum_of_sizes`, two other predictions, and `beside_rule`,
    the schedule's over it. Dimension `tested`: arms made of cells
    that were run as a whole, here or in the run `measured`; `predicted`, `measured` and `ratio` of these, `answer`:
    held or failed by the margin of 1.25, or undecided. Dimension `pair`: a schedule and a rule of no larger saving,
    `rms_ratio` and the geometric mean `typical_ratio` over the same samples. `of`: which head, where a run has several.
    Raises RunError where a run has no cells, where a budget or saving cannot be met, and where the runs differ.
    Source: docs/schedules.md.
    """
    run = runs.complete(run)
    cells = of_run(run, of)
    plans = predict.plans(cells, seed=seed)
    plan = _asked(plans, budget, saving)
    limits: dict[str, Any] = {"confidence": confidence, "seed": seed}
    result = _curves(plans, limits)
    result["size"] = (("step", "layer"), _sizes(cells))
    result["chosen"] = (("step", "layer"), plans.cover(plan))
    result.update(_proposals(plans, plan, limits))
    other = None if measured is None else runs.complete(measured)
    arms = tested(run if other is None else other, plans)
    if other is not None and not arms:
        raise runs.RunError(f"the measured run has no arm of {cells.head} that is made of the study's cells: "
                            "run the command that `trace analyze schedule` prints for it")  # fmt: skip
    result.update(_tested(arms, cells, other is None, limits))
    result.update(_pairs(arms, cells, limits))
    result = result.assign_coords(layer=list(cells.layers) or [0], step=np.arange(cells.steps))
    result.attrs = {
        "title": runs.title(run), "samples": len(cells.gram), "steps": cells.steps, "head": cells.head,
        "plan": plan, "confidence": confidence, "cells": len(cells.arms), "whole": int(not cells.layers),
        "longest": int(cells.covers.any(2).sum(1).max()), "remembers": int(cells.remembers),
        "asked": f"budget {budget:g}" if budget is not None else f"saving {SAVING if saving is None else saving:g}",
        "of_fresh": -1 if other is None else fresh(other, run),
        "measured_samples": 0 if other is None else other["metrics"].sizes["sample"],
        "held_out": int(np.isfinite(plans.held_out).all()),
        "command": str(run.attrs.get("command", "")),
        "fewer": _fewer(plans, plan) if cells.remembers and runs.sampler(run) in HELD else "",
        "first_seed": int(runs.configuration(run).get("seed", 0)) + len(cells.gram),
    }  # fmt: skip
    return result


def _fewer(plans: Plans, plan: int) -> str:
    """The arm of fewer steps that costs as much as a plan."""
    return f"steps{plans.cells.steps - int(plans.approximated[plan])}"


def _asked(plans: Plans, budget: float | None, saving: float | None) -> int:
    """The position of the plan that is asked for."""
    if budget is not None and saving is not None:
        raise runs.RunError("--budget and --saving ask for two different things: give one of them")
    if saving is not None and not 0 < saving < 1:
        raise runs.RunError(f"--saving {saving:g}: a share of the block evaluations between 0 and 1, such as 0.5")
    if budget is not None and not budget > 0:
        raise runs.RunError(f"--budget {budget:g}: an error above 0, in standard deviations of clean results")
    shares = plans.approximated / plans.cells.steps
    if budget is not None:
        within = np.flatnonzero(np.sqrt(plans.expected.mean(1)) <= budget)
        if not within.size:
            least = math.sqrt(plans.expected[0].mean())
            raise runs.RunError(
                f"--budget {budget:g}: the smallest schedule saves {shares[0]:.1%} and is expected to end {least:.3g} "
                f"away from clean; ask for --budget {_above(least):g} or more"
            )
        return int(within[-1])
    least = SAVING if saving is None else saving
    enough = np.flatnonzero(shares >= least - 1e-9)
    if saving is None and not enough.size:
        return len(shares) - 1
    if not enough.size:
        raise runs.RunError(
            f"--saving {least:g}: the cells of this run allow at most {math.floor(shares[-1] * 100) / 100:g}; longer "
            "rows of steps allow more (`trace counterfactual schedule --longest N`)"
        )
    return int(enough[0])


def _above(value: float) -> float:
    """A little more, in two digits."""
    digits = 1 - math.floor(math.log10(value))
    return math.ceil(value * 10**digits) / 10**digits


def _curves(plans: Plans, limits: dict[str, Any]) -> xr.Dataset:
    """What each saving is expected to cost, by schedule and by rule."""
    of_rules = np.stack([[plans.rule(rule, plan)[1] for plan in range(len(plans.chosen))] for rule in rules.RULES])
    return xr.Dataset(
        {
            "expected": (("plan", "bound"), predict.rms(plans.expected, **limits)),
            "same": ("plan", np.sqrt(plans.same.mean(1))),
            "of_rule": (("rule", "plan", "bound"), predict.rms(of_rules, **limits)),
        },
        coords={
            "approximated": ("plan", plans.approximated), "saving": ("plan", plans.approximated / plans.cells.steps),
            "rule": list(rules.RULES), "bound": list(BOUNDS),
        },
    )  # fmt: skip


def _sizes(cells: Cells) -> np.ndarray:
    """Error of one step alone [step, layer], of the smallest cell that covers the block; NaN where there is none."""
    sizes = np.full(cells.covers.shape[1:], np.nan)
    alone = np.sqrt(cells.gram[:, range(len(cells.arms)), range(len(cells.arms))].mean(0))
    for cell in np.argsort(-cells.blocks, kind="stable"):
        if cells.covers[cell].any(1).sum() == 1:
            sizes[cells.covers[cell]] = alone[cell]
    return sizes


def _proposals(plans: Plans, plan: int, limits: dict[str, Any]) -> xr.Dataset:
    """The plan that is asked for and the rules at its cost, as specs, with three predictions each."""
    cells = plans.cells
    named: dict[str, tuple[np.ndarray | None, np.ndarray]] = {"schedule": (plans.cover(plan), plans.expected[plan])}
    named |= {rule: plans.rule(rule, plan) for rule in rules.RULES}
    known = {name: (cover, values) for name, (cover, values) in named.items() if cover is not None}
    others = np.array([predict.apart(cells, cover) for cover, _ in known.values()])
    return xr.Dataset(
        {
            "spec": ("proposal", [cells.spec(cover) for cover, _ in known.values()]),
            "saved": ("proposal", [cover.sum() / cells.total for cover, _ in known.values()]),
            "beside_rule": (("proposal", "bound"), _against(known, limits)),
            "of_proposal": (
                ("proposal", "bound"),
                np.stack([predict.rms(each, **limits) for _, each in known.values()]),
            ),
            "in_quadrature": ("proposal", others[:, 0]),
            "sum_of_sizes": ("proposal", others[:, 1]),
        },
        coords={"proposal": list(known)},
    )


def _against(known: dict[str, tuple[np.ndarray, np.ndarray]], limits: dict[str, Any]) -> np.ndarray:
    """Predicted error of the schedule over that of each proposal [proposal, bound]."""
    _, own = known["schedule"]
    return np.stack([predict.ratio(own, other, paired=True, **limits) for _, other in known.values()])


def _tested(arms: list[Tested], cells: Cells, same: bool, limits: dict[str, Any]) -> xr.Dataset:
    """Predicted against measured; `same`: both are of the same samples."""
    none = np.zeros((0, len(BOUNDS)))
    ratios = [
        predict.ratio(arm.measured, arm.together if same else arm.predicted, paired=same, **limits) for arm in arms
    ]
    table = {
        "predicted": [predict.rms(arm.predicted, **limits) for arm in arms],
        "measured": [predict.rms(arm.measured, **limits) for arm in arms],
        "ratio": ratios,
    }
    result = xr.Dataset({name: (("tested", "bound"), np.array(rows) if rows else none) for name, rows in table.items()})
    result["answer"] = ("tested", np.array([predict.answer(each) for each in ratios], dtype=object))
    result["kind"] = ("tested", np.array([arm.kind for arm in arms], dtype=object))
    result["tested_saving"] = ("tested", np.array([arm.blocks / cells.total for arm in arms], dtype=float))
    return result.assign_coords(tested=np.array([arm.arm for arm in arms], dtype=object))


def _pairs(arms: list[Tested], cells: Cells, limits: dict[str, Any]) -> xr.Dataset:
    """Schedules beside rules of no larger saving, on the same samples."""
    found = beside(arms, cells)
    none = np.zeros((0, len(BOUNDS)))
    rms = [predict.ratio(one.measured, rule.measured, paired=True, **limits) for one, rule in found]
    typical = [predict.geometric(one.measured, rule.measured, **limits) for one, rule in found]
    return xr.Dataset(
        {
            "rms_ratio": (("pair", "bound"), np.array(rms) if rms else none),
            "typical_ratio": (("pair", "bound"), np.array(typical) if typical else none),
        },
        coords={
            "one": ("pair", np.array([one.arm for one, _ in found], dtype=object)),
            "beside": ("pair", np.array([rule.kind for _, rule in found], dtype=object)),
            "pair_saving": ("pair", np.array([one.blocks / cells.total for one, _ in found], dtype=float)),
        },
    )


schedule.presents("table")(schedule_words.table)
schedule.presents("sentence")(schedule_words.sentence)
schedule.presents("records")(schedule_words.records)
schedule.presents("figure")(schedule_figure.figure)
