"""Feedback, propagation, steps: from one run or several to the three answers of every cell at every dose.

It gathers what the runs recorded (`measured`), applies the `rule` and corrects the secondary cells for multiplicity.
It fixes no margin and hides no doubt: an answer always comes with its estimate, its interval and the saturation.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.answer import calibration, margins, rule, words
from analysis.answer.margins import LABELS, LEVEL, UNDECIDED
from analysis.answer.martingale import in_words
from analysis.answer.measured import measured
from analysis.answer.primary import primary_cell
from analysis.answer.telling import scatter_may_amplify, slope_taken_as_one, told
from analysis.answer.verdict_figure import figure
from analysis.common import nouns, pairing, runs, statistics
from analysis.measure import shipped
from analysis.measures.steps import title
from interventions.naming import unknown

REFERENCE_STEPS = 250
SHARES = {"scatter": ("scatter_energy", "error_energy"), "replay_scatter": ("replay_scatter_energy", "replay_energy")}
GEOMETRIC = {"R": "log_replay_null", "A": "log_amplification"}
PER_SAMPLE = ("error_spreads", "log_feedback", "log_systematic", "log_replay_null", "log_amplification", "coherence")
PLAIN = ("feedback_rms", "systematic", "calibration", "error_slope")
"""Quantities whose intervals stand beside those of the answers."""


@shipped
def verdict(
    several: pairing.Runs,
    *,
    primary: str | None = None,
    at: int | None = None,
    kind: str | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """The answers of the rule for every whole arm (arm and dose) of a run, or of runs that differ in steps or doses.

    Per `cell` (the arm's spec; coordinates `mask` and `dose`): `feedback`, `along` and `steps_answer` with
    `feedback_interval`, `along_interval`, `steps_interval` (confidence, bound); `claim` ("supported", "refuted",
    "open"); `calibration_state`. Beside them intervals of RMS S, |N*| / |N| (`systematic`), the slope on N*
    (`calibration`), p_e (`error_slope`), the `scatter` share of the arm's and of the replayed path; of feedback and
    along, what a small dose `extrapolated` to full dose comes to, its power 1 / dose; `saturation`, the
    RMS final error in spreads; per sample log S and what else was measured; A, R, coherence and stretch as
    descriptions. Answers of secondary arms are those left by Holm's correction over all their doses, question by
    question, of p-values that invert the very intervals; `*_alone` is the rule's own and `*_p_holm` the corrected p.

    A cell is judged at `at` steps (250 if there, else the most; a cell without that number at the most it has), p_S and
    p_e on the starts that have every number of steps of their cell. A run of one number of steps answers what it can.
    `primary` names the arm fixed beforehand; left out, it is the small-world mask nearest to 25% density (20 to 30%).
    `kind` chooses the null of A. Raises RunError where no arm acts over the whole run, runs differ in
    more than steps and doses, or nothing fits. Source: docs/science.md, "The rule and its margins".
    """
    trees = pairing.as_list(several)
    pairing.same_experiment(trees)
    table = measured(trees, kind)
    counts = sorted(int(count) for count in table.index.unique("steps"))
    at = at or (REFERENCE_STEPS if REFERENCE_STEPS in counts else max(counts))
    if at not in counts:
        raise runs.RunError(f"no run with {at} steps; there are {', '.join(map(str, counts))}")
    arms = {arm.name: arm for run in trees for arm in runs.arms(run) if arm.whole}
    measured_arms = [str(name) for name in table.index.unique("arm")]
    masks = list(dict.fromkeys(arms[name].mask for name in measured_arms))
    cells = sorted(measured_arms, key=lambda name: (masks.index(arms[name].mask), -arms[name].strength))
    fixed = primary if primary is not None else primary_cell(trees, masks)
    if fixed and fixed not in masks:
        raise runs.RunError(unknown(f"the primary arm {fixed!r} is not among the arms", fixed, masks))
    stochastic = runs.stochastic(trees[0])
    guided = runs.configuration(trees[0]).get("guidance", 1) not in (1, None)
    parts = [_judge(table.loc[cell], at, seed, posterior_mean=not (stochastic and guided)) for cell in cells]
    result = xr.concat(parts, dim="cell", join="outer", combine_attrs="drop")
    result = result.assign_coords(
        cell=np.array(cells, str),
        mask=("cell", [arms[cell].mask for cell in cells]),
        dose=("cell", [arms[cell].strength for cell in cells]),
    )
    result["primary"] = "cell", [arms[cell].mask == fixed for cell in cells]
    for name in ("feedback", "along"):
        result[f"{name}_extrapolated_interval"] = result[f"{name}_interval"] ** (1 / result["dose"])
    result = _corrected(result)
    result.attrs = {
        "title": title(trees[0]),
        "steps": counts,
        "at": at,
        "primary": fixed or "",
        "stochastic": int(stochastic),
        "guided": int(guided),
        "martingale": in_words(next((run for run in trees if run["metrics"].sizes["step"] == at), trees[0])),
        "margin": margins.MARGIN,
        "slope_margin": margins.SLOPE_MARGIN,
    }
    result["claim"] = "cell", _claims(result)
    return result


def _judge(rows: pd.DataFrame, at: int, seed: int, *, posterior_mean: bool) -> xr.Dataset:
    """One cell: the rule on its own rows (steps, pair), with the numbers that it used."""
    counts = rows.index.unique("steps")
    here = rows.loc[at if at in counts else max(counts)]
    used = here[here["kept"]]
    known = used[used["log_feedback"].notna()] if used["log_feedback"].notna().any() else used
    slopes = {name: _slopes(rows, column) for name, column in (("S", "log_feedback"), ("error", "error"))}
    answers = rule.decide(
        _measured(known, "log_feedback"),
        _measured(known, "log_systematic"),
        slopes["S"],
        error_slope=slopes["error"],
        gram=known[["gram_top", "gram_bottom"]].to_numpy().T if len(known) else None,
        starts=known["start"].to_numpy(str) if len(known) else None,
        posterior_mean=posterior_mean,
        diverged=int(np.count_nonzero(here["diverged"])),
        diverged_slopes=int(rows["diverged"].groupby(level="pair").any().sum()),
        seed=seed,
    )
    part = xr.Dataset({name: ("sample", here[name].to_numpy(float)) for name in PER_SAMPLE})
    part = part.assign_coords(sample=here.index.to_numpy(str))
    for question in LABELS:
        part[question] = getattr(answers, question)
        part[_interval(question)] = answers.intervals.sel(quantity=question, drop=True)
        part[f"{question}_p"] = answers.p[question]
        part[f"{question}_starts"] = answers.starts[question]
        part[f"{question}_reasons"] = " | ".join(answers.reasons[question])
    for name in PLAIN:
        part[f"{name}_interval"] = answers.intervals.sel(quantity=name, drop=True)
    part["calibration_state"] = answers.calibration
    part = part.assign(_described(used, seed))
    part["steps_at"] = at if at in counts else max(counts)
    part["counts"] = json.dumps([int(count) for count in sorted(counts)])
    part["samples"], part["starts"] = len(used), used["start"].nunique()
    part["diverged"] = np.count_nonzero(here["diverged"])
    part["excluded"] = len(here) - len(used) - part["diverged"]
    return part


def _described(used: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Scatter shares with intervals over starts, saturation, and the geometric means of what only describes."""
    start = used["start"].to_numpy(str)
    values: dict[str, Any] = {
        f"{name}_interval": calibration.share(used[part], used[whole], start, seed=seed)
        for name, (part, whole) in SHARES.items()
    }
    squares = used["error_spreads"].dropna().to_numpy() ** 2
    values["saturation"] = float(np.sqrt(squares.mean())) if squares.size else np.nan
    for name, column in GEOMETRIC.items():
        values[name] = float(np.exp(used[column].mean()))
    return values | {"stretch": float(np.exp(np.log(used["stretch"]).mean()))}


def _slopes(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    """Slope on the log of the number of steps [start], mean over the start's paths; None without several numbers.

    Only samples that were measured at every number of steps of this cell.
    """
    values = rows[column].unstack("steps")
    if values.shape[1] < 2:
        return None
    logs = values if column.startswith("log_") else np.log(values.where(values > 0))
    slopes = pd.Series(rule.step_slope(logs.to_numpy(float), [int(each) for each in logs.columns]), index=logs.index)
    start = rows["start"].groupby(level="pair").first()
    known = slopes[slopes.notna()]
    return known.groupby(start.reindex(known.index)).mean().to_numpy() if len(known) else None  # NaN: none are left


def _measured(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    return rows[column].to_numpy(float) if rows[column].notna().any() else None


def _interval(question: str) -> str:
    return "steps_interval" if question == "steps_answer" else f"{question}_interval"


def _corrected(result: xr.Dataset) -> xr.Dataset:
    """Holm's correction over the secondary arms with all their doses, question by question; the primary stands alone.

    An answer that the rule gives has a p of at most .05 by the same interval; it is kept if the corrected one is, too.
    """
    secondary = ~result["primary"].values
    for question in LABELS:
        p = result[f"{question}_p"].values.astype(float).copy()
        p[secondary] = statistics.holm(p[secondary])
        alone = result[question].values.astype(str)
        result[f"{question}_alone"] = "cell", alone
        result[f"{question}_p_holm"] = "cell", p
        result[question] = "cell", np.where(p <= LEVEL, alone, UNDECIDED)
    return result


def _claims(result: xr.Dataset) -> list[str]:
    """What the answers `along` of an intervention at all its doses say of the claim, for every cell.

    Where a stochastic sampler's slope on N* was not measured, |N*| / |N| is half an answer and no claim rests on it.
    An ODE sampler's |y - x| / |tau| counts scatter as systematic, so that an additive system whose modes switch reads
    "amplified": there the claim needs feedback, too.
    """
    if result.attrs["stochastic"]:
        unfounded = result["calibration_state"].values == calibration.NO_PATHS
    else:
        unfounded = scatter_may_amplify(result)
    along = np.where(unfounded, UNDECIDED, result["along"].values)
    by_mask: dict[str, dict[float, str]] = {}
    for mask, dose, label in zip(result["mask"].values, result["dose"].values, along, strict=True):
        by_mask.setdefault(str(mask), {})[float(dose)] = str(label)
    judged = {mask: rule.claims(labels) for mask, labels in by_mask.items()}
    return [
        judged[str(mask)][float(dose)] for mask, dose in zip(result["mask"].values, result["dose"].values, strict=True)
    ]


# --- presentation ---

verdict.presents("figure")(figure)


@verdict.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per arm and dose: the answers that were asked, with estimates and 95% intervals; the CSV says more."""
    rows, called = [], nouns.wording(dataset).noun
    for cell in dataset["cell"].values:
        view = dataset.sel(cell=cell)
        row: dict[str, object] = {called: str(view["mask"].item()), "dose": float(view["dose"])}
        for question, symbol in (("feedback", "S"), ("along", "amplification"), ("steps_answer", "p_S")):
            if np.isfinite(dataset[_interval(question)]).any():
                row |= {symbol: words.quoted(view[_interval(question)]), question: view[question].item()}
        if slope_taken_as_one(view):
            row["along"] = f"{row['along']} if slope 1"
        row["error, spreads"] = float(view["saturation"])
        if dataset["diverged"].any():
            row["diverged"] = int(view["diverged"])
        rows.append(row | {"claim": view["claim"].item(), "starts": int(view["starts"])})
    return pd.DataFrame(rows)


@verdict.presents("records")
def records(dataset: xr.Dataset) -> pd.DataFrame:
    """The table with every limit as a number, calibration, scatter, extrapolation, descriptions and exclusions."""
    rows, called = [], nouns.wording(dataset).noun
    for cell in dataset["cell"].values:
        view = dataset.sel(cell=cell)
        row: dict[str, object] = {called: str(view["mask"].item()), "dose": float(view["dose"])}
        row |= {"steps": int(view["steps_at"]), "claim": view["claim"].item()}
        for label, question, name in (
            ("feedback", "feedback", "S"), ("along", "along", "amplification"), ("steps answer", "steps_answer", "p_S"),
        ):  # fmt: skip
            low, estimate, high = words.limits(view[_interval(question)])
            row |= {label: view[question].item(), name: estimate, f"{name} low": low, f"{name} high": high}
        row["S^(1/dose)"] = words.limits(view["feedback_extrapolated_interval"])[1]
        row["S RMS"] = words.limits(view["feedback_rms_interval"])[1]
        for label, name in (
            ("|N*|/|N|", "systematic"), ("slope on N*", "calibration"), ("p_e", "error_slope"),
            ("scatter", "scatter"), ("replay scatter", "replay_scatter"),
        ):  # fmt: skip
            row[label] = words.limits(view[f"{name}_interval"])[1]
        row |= {"error / spread": float(view["saturation"]), "R": float(view["R"]), "A": float(view["A"])}
        row |= {"samples": int(view["samples"]), "starts": int(view["starts"]), "excluded": int(view["excluded"])}
        row["diverged"] = int(view["diverged"])
        rows.append(row)
    return pd.DataFrame(rows)


@verdict.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """The answers in words: the primary arm first, dose by dose, then the claim, and everything that limits it."""
    return told(dataset)
