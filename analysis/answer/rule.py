"""The rule: from one value per sample to three answers, on feedback, on propagation along the path, and on steps.

It reads numbers, not runs (`verdict` does that), and does not know which answer anybody hopes for. The margins stand in
`margins`. Source: docs/science.md, "The rule and its margins".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from analysis.answer import words
from analysis.answer.calibration import (
    BLIND,
    NO_PATHS,
    SMALLEST,
    How,
    group_of,
    limits,
    quotient,
    slope_on_own,
    start_sums,
)
from analysis.answer.margins import (
    CONFIDENCE,
    INTERMITTENCY_LEVEL,
    LABELS,
    LEVEL,
    LINEAR,
    LOG_MARGIN,
    SLOPE_MARGIN,
    UNDECIDED,
)
from analysis.common import statistics
from analysis.common.resampling import Resampled, resample

QUANTITIES = ("feedback", "feedback_rms", "systematic", "calibration", "along", "steps_answer", "error_slope")
RATIOS = ("feedback", "feedback_rms", "systematic", "along")
"""The quantities that are ratios: judged by their logarithm, told as they are."""
MOST_STARTS = 100_000
ROUGH_STARTS = 10  # below, BCa intervals of a mean cover clearly less than they say; the answer carries a warning


@dataclass(frozen=True, eq=False)
class Answers:
    """What the rule answers for one cell at one dose; `sentence` says all of it in words.

    feedback, along, steps_answer: the answers, each "undecided" if nothing else. intervals: (quantity, confidence,
    bound), with ratios as ratios and slopes as slopes; NaN for what was not measured. p: of each answer, the level at
    which its interval would just reach it (NaN if undecided); what Holm's correction needs. starts: how many
    independent starts each answer rests on. calibration: what is known of the slope on N*. reasons: question -> why an
    answer was withheld or what weakens it.
    """

    feedback: str
    along: str
    steps_answer: str
    intervals: xr.DataArray
    p: Mapping[str, float]
    starts: Mapping[str, int]
    calibration: str
    reasons: Mapping[str, tuple[str, ...]]

    @property
    def sentence(self) -> str:
        """Every answer with its estimate, interval and reasons."""
        told = [
            words.answer(question, getattr(self, question), self.intervals.sel(quantity=question, drop=True))
            + "".join(f" ({reason})" for reason in self.reasons[question])
            for question in LABELS
        ]
        return ". ".join(text[0].upper() + text[1:] for text in told) + "."


@dataclass(frozen=True, eq=False)
class _Judged:
    """One quantity, on the scale that is judged, and its answer."""

    label: str
    value: Resampled | None = None
    rms: Resampled | None = None
    p: float = math.nan
    units: int = 0
    reasons: tuple[str, ...] = ()


def decide(
    log_feedback: ArrayLike | None,
    log_systematic: ArrayLike | None = None,
    feedback_slope: ArrayLike | None = None,
    *,
    error_slope: ArrayLike | None = None,
    gram: ArrayLike | None = None,
    starts: ArrayLike | None = None,
    posterior_mean: bool = True,
    diverged: int = 0,
    diverged_slopes: int = 0,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Answers:
    """Apply the rule to the measures of one cell at one dose; None for what was not measured.

    log_feedback [sample]: log S, S = |y - x| / |w - x| at the end. log_systematic [sample]: log(|N*| / |N|) of a
    stochastic sampler, log(S |w - x| / |tau|) of an ODE sampler; NaN in samples for which it was not measured.
    gram [2, sample]: <delta_i, sum of N*_j> and <N*_i, sum of N*_j> over the other paths j of the same start, NaN where
    there is none; the ratio of their sums is the calibration slope, which multiplies the systematic amplification.
    feedback_slope, error_slope [start]: slopes p_S and p_e over the number of steps (`step_slope`).
    starts [sample]: which start a sample belongs to; left out, each sample is a start of its own. Starts are resampled
    with all their paths. posterior_mean: whether the slope may be taken as 1 where it was not measured or no part of
    the error is predictable from x_T; False (guided predictions, for instance) leaves `along` undecided there.
    diverged: how many samples turned NaN or infinite and so are in none of these arrays; diverged_slopes: the same at
    any of the numbers of steps. Nothing bounds what their error would be, so only an answer above the margin stands.
    Raises ValueError for arrays that are not one value per sample, are empty, or hold NaN or infinite values elsewhere.
    Source: docs/science.md, "The rule and its margins"; intervals BCa (Efron 1987), equivalence by 90% interval
    inclusion (Schuirmann 1987).
    """
    how = How(resamples, seed)
    logs, system = _values("log_feedback", log_feedback), _values("log_systematic", log_systematic, missing=True)
    group = group_of(starts, logs, system)
    sums = None if gram is None or not group.size else _gram(gram, group)
    calibration, slope = slope_on_own(sums, group, how)
    known = calibration not in (NO_PATHS, BLIND)
    judged = {
        "feedback": _ratio("feedback", logs, group, how),
        "along": _ratio("along", system, group, how, sums if known else None),
        "steps_answer": _slope(_values("feedback_slope", feedback_slope), how),
    }
    if system is not None and not known and not posterior_mean:
        known_of_it = "was not measured" if calibration == NO_PATHS else f"has {calibration}"
        reason = f"the slope on N* is needed, for this prediction is no posterior mean, and it {known_of_it}"
        judged["along"] = replace(judged["along"], label=UNDECIDED, p=math.nan, reasons=(reason,))
    lost = {"feedback": diverged, "along": diverged, "steps_answer": diverged_slopes}
    judged = {question: _of_survivors(question, one, lost[question]) for question, one in judged.items()}
    errors = _values("error_slope", error_slope)
    values = {question: one.value for question, one in judged.items()} | {
        "feedback_rms": judged["feedback"].rms,
        "systematic": None if system is None else _mean(_by_start(system, group, np.mean), how),
        "calibration": slope,
        "error_slope": None if errors is None else _mean(errors, how),
    }
    return Answers(
        **{question: one.label for question, one in judged.items()},
        intervals=_intervals(values),
        p={question: one.p for question, one in judged.items()},
        starts={question: one.units for question, one in judged.items()},
        calibration=calibration,
        reasons={question: one.reasons for question, one in judged.items()},
    )


def claims(along: Mapping[float, str]) -> dict[float, str]:
    """Whether the paper's claim holds at each dose of a cell, from the answers `along` by dose.

    "supported" where `along` is amplified. "refuted" where it is additive or contracted at full dose and at both doses
    of the linear regime, .1 and .01. "open" otherwise.
    """
    amplified, *no_growth = LABELS["along"]
    settled = all(along.get(dose) in no_growth for dose in (1.0, *LINEAR))
    return {
        dose: "supported" if label == amplified else "refuted" if settled else "open" for dose, label in along.items()
    }


def step_slope(values: ArrayLike, steps: Sequence[int]) -> np.ndarray:
    """Slope [sample] of log values [sample, count] on log(number of steps) [count], by least squares, each its own.

    A sample that lacks a count (NaN) gets NaN. Raises ValueError for fewer than two different counts, counts below 1,
    or a last axis that does not match `steps`.
    """
    logs = np.asarray(values, dtype=np.float64)
    counts = np.asarray(steps, dtype=np.float64)
    if counts.ndim != 1 or np.unique(counts).size < 2 or (counts < 1).any():
        raise ValueError(f"a slope needs at least two different numbers of steps, for example [50, 250]; got {steps}")
    if logs.ndim == 0 or logs.shape[-1] != counts.size:
        raise ValueError(f"values are [sample, count] with {counts.size} counts; got shape {logs.shape}")
    x = np.log(counts)
    x = x - x.mean()
    return (logs * x).sum(axis=-1) / (x**2).sum()


def log_rms(logs: np.ndarray, axis: int = -1) -> np.ndarray:
    """Log of the root mean square, from logs [..., sample]; does not overflow."""
    return 0.5 * (logsumexp(2 * logs, axis=axis) - math.log(logs.shape[axis]))


def intermittency_p(logs: ArrayLike, draws: int = 1999) -> float:
    """How often log-normal values of the same mean, sd and n have an RMS that exceeds its expectation by as much.

    For log-normal values, log RMS = mean + variance of the logs; rare large values push the RMS further out.
    Parametric bootstrap [sample] -> p in (0, 1], seed fixed. Constant or fewer than 3 samples give 1.
    """
    values = np.asarray(logs, dtype=np.float64)
    if values.size < statistics.FEWEST_SAMPLES or values.std() < 1e-12:
        return 1.0
    reference = np.random.default_rng(0).normal(0, values.std(ddof=1), (draws, values.size))
    excess, expected = (log_rms(x) - x.mean(axis=-1) - x.var(axis=-1, ddof=1) for x in (values, reference))
    return float((1 + (expected >= excess).sum()) / (1 + draws))


# --- the three answers ---


def _ratio(
    question: str, logs: np.ndarray | None, group: np.ndarray, how: How, gram: np.ndarray | None = None
) -> _Judged:
    """A question about a ratio: its geometric mean over starts, times the calibration slope where there is one.

    The answer is withheld where the RMS gives another one *and* lies above the geometric mean by more than a log-normal
    spread explains. Paths of one start count as independent for that.
    """
    if logs is None:
        return _Judged(UNDECIDED)
    measured = np.isfinite(logs)
    logs, group = logs[measured], group[measured]
    gram = None if gram is None else gram[:, measured]
    value, rms = (
        _resampled(_by_start(logs, group, within), statistic, how, None if gram is None else start_sums(gram, group))
        for within, statistic in ((np.mean, np.mean), (log_rms, log_rms))
    )
    judged = _judge(question, value, np.unique(group).size, LOG_MARGIN)
    judged = replace(judged, rms=rms)
    other = _label(question, rms, LOG_MARGIN)
    if judged.label not in (UNDECIDED, other) and intermittency_p(logs) < INTERMITTENCY_LEVEL:
        reason = (
            f"withheld: the geometric mean gives {judged.label}, but by the RMS of {math.exp(rms.estimate):.3g} it is "
            f"{other}; rare samples lie further out than a log-normal spread, which no single label describes"
        )
        return replace(judged, label=UNDECIDED, p=math.nan, reasons=(reason,))
    return judged


def _slope(slopes: np.ndarray | None, how: How) -> _Judged:
    if slopes is None:
        return _Judged(UNDECIDED)
    return _judge("steps_answer", _mean(slopes, how), slopes.size, SLOPE_MARGIN)


def _judge(question: str, value: Resampled, units: int, margin: float) -> _Judged:
    label = _label(question, value, margin)
    above, inside, below = LABELS[question]
    p = {
        above: 2 * value.p_above(margin) if value.replicates.size else math.nan,
        inside: max(value.p_above(-margin), value.p_below(margin)) if value.replicates.size else math.nan,
        below: 2 * value.p_below(-margin) if value.replicates.size else math.nan,
    }.get(label, math.nan)
    reasons = []
    if units < statistics.FEWEST_SAMPLES:
        reasons.append(f"n = {units}: an interval needs at least {statistics.FEWEST_SAMPLES} starts")
    elif units < ROUGH_STARTS:
        reasons.append(f"with {units} starts bootstrap intervals are too narrow: take no answer here for settled")
    elif label == UNDECIDED:
        reasons.append(starts_needed(value, units, margin))
    return _Judged(label, value, p=min(p, LEVEL), units=units, reasons=tuple(reasons))


def _of_survivors(question: str, judged: _Judged, diverged: int) -> _Judged:
    """What is left of an answer when samples diverged: those that did not are the ones with the smaller errors, so
    that nothing inside or below the margins can rest on them.
    """
    if not diverged or judged.value is None:
        return judged
    samples = "1 sample diverged and is" if diverged == 1 else f"{diverged} samples diverged and are"
    if judged.label in (LABELS[question][0], UNDECIDED):
        return replace(judged, reasons=(*judged.reasons, f"{samples} not in this estimate"))
    reason = f"withheld: {samples} not in this estimate, by which it would be {judged.label}"
    return replace(judged, label=UNDECIDED, p=math.nan, reasons=(reason,))


def _label(question: str, value: Resampled, margin: float) -> str:
    """Which side of the margins a quantity is on; a NaN limit fails every comparison and so leaves it undecided."""
    above, inside, below = LABELS[question]
    (low90, high90), (low95, high95) = (value.interval(level) for level in CONFIDENCE)
    if low95 > margin:
        return above
    if high95 < -margin:
        return below
    return inside if low90 > -margin and high90 < margin else UNDECIDED


def starts_needed(value: Resampled, units: int, margin: float) -> str:
    """How many starts would settle an answer with 90% power, if its estimate and spread are right, in words."""
    spread, outside = float(value.replicates.std()) * math.sqrt(units), abs(value.estimate) - margin
    if abs(outside) < 1e-12:
        return "the estimate lies on the margin"
    if outside > 0:
        needed = statistics.samples_for_bound(spread, outside, alpha=0.025)
    else:  # both ends of the interval must fit: the beta of an equivalence test is split
        needed = statistics.samples_for_bound(spread, -outside, power=0.95, alpha=0.05)
    if needed > MOST_STARTS:
        return f"so near the margin that {MOST_STARTS:,} starts would not settle it"
    return f"about {max(needed, units + 1):,} starts would settle it if estimate and spread hold"


# --- units and resampling ---


def _resampled(
    values: np.ndarray, statistic: Callable[..., np.ndarray], how: How, sums: np.ndarray | None = None
) -> Resampled:
    """A statistic of values [start], plus the log of the calibration slope of the same resampled starts."""

    def of(drawn: np.ndarray) -> np.ndarray:
        value = statistic(values[drawn], axis=-1)
        return value if sums is None else value + np.log(np.maximum(quotient(sums, drawn), SMALLEST))

    return resample(of, values.size, resamples=how.resamples, seed=how.seed)


def _mean(values: np.ndarray, how: How) -> Resampled:
    return _resampled(values, np.mean, how)


def _by_start(values: np.ndarray, group: np.ndarray, within: Callable[..., np.ndarray]) -> np.ndarray:
    """A statistic of the finite values of every start, [start]; starts without any are left out."""
    return np.array([within(values[chosen]) for start in np.unique(group)
                     if (chosen := (group == start) & np.isfinite(values)).any()])  # fmt: skip


def _intervals(values: Mapping[str, Resampled | None]) -> xr.DataArray:
    """(quantity, confidence, bound): ratios as ratios, slopes as they are."""
    bounds = np.stack([np.exp(limits(values[name])) if name in RATIOS else limits(values[name]) for name in QUANTITIES])
    coords = {"quantity": list(QUANTITIES), "confidence": list(CONFIDENCE), "bound": list(statistics.BOUNDS)}
    return xr.DataArray(bounds, dims=("quantity", "confidence", "bound"), coords=coords)


def _values(name: str, values: ArrayLike | None, *, missing: bool = False) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        hint = "; reduce [sample, count] with step_slope(values, steps)" if array.ndim == 2 else ""
        raise ValueError(f"{name} is one value per sample, a non-empty one-dimensional array; got {array.shape}{hint}")
    bad = np.flatnonzero(np.isinf(array) if missing else ~np.isfinite(array))
    if bad.size:
        which = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise ValueError(
            f"{bad.size} of {array.size} values of {name} are NaN or infinite (samples {which}): leave those samples "
            "out of every argument and say so; pass None for what was not measured"
        )
    return None if np.isnan(array).all() else array


def _gram(gram: ArrayLike, group: np.ndarray) -> np.ndarray:
    array = np.asarray(gram, dtype=np.float64)
    if array.shape != (2, group.size):
        raise ValueError(f"gram is [2, sample] with {group.size} samples; got shape {array.shape}")
    return array
