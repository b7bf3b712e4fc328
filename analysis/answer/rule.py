"""The preregistered rule: from log A and the slope p, one value per sample, to a claim and a mechanism.

The margins stand here and nowhere else. The rule reads numbers, not runs (see `verdict.py` for those), and it does not
know which answer anybody hopes for. Rule and margins: docs/science.md, "The rule and its margins".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from analysis.common import statistics

# Fixed before any run was analysed. Change them and every verdict changes.
LOG_AMPLIFICATION_MARGIN = math.log(1.5)  # on log A: less than a factor of 1.5 either way counts as no amplification
SLOPE_MARGIN = 0.10  # on p: A may grow by at most 7% per doubling of the number of steps

CONFIDENCE = (0.90, 0.95)  # 90% intervals are two one-sided tests at 5%, for equivalence; 95% for differences
QUANTITIES = ("log_amplification", "log_rms_amplification", "step_slope")
INTERMITTENCY_LEVEL = 0.01
ROUGH_SAMPLES = 10  # below, BCa intervals of a mean cover clearly less than they say; the answer carries a warning
MOST_SAMPLES = 100_000
CLAIM = "masking error compounds over the steps"


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the rule answers. `sentence` says all of it in words.

    `intervals` has dims (quantity, confidence, bound): quantities log_amplification (the mean of log A, whose
    exponential is the geometric mean of A), log_rms_amplification and step_slope; bounds low, estimate, high.
    A comes from `samples` samples, p from `slopes` of them.
    `geometric_label` and `rms_label` are what rules 1 to 4 give with either of the two, `low_dose_label` with the low
    dose; `label` is withheld ("inconclusive") when they disagree, and `reasons` says why anything was withheld.
    """

    claim: str
    label: str
    intervals: xr.DataArray
    samples: int
    slopes: int
    geometric_label: str
    rms_label: str
    low_dose_label: str | None = None
    reasons: tuple[str, ...] = ()
    note: str = field(default="", repr=False)

    @property
    def sentence(self) -> str:
        """Claim, mechanism, numbers, sample size and the power note, in plain words."""
        claim = {
            "supported": f'The claim "{CLAIM}" is supported',
            "rejected": f'The claim "{CLAIM}" is rejected',
            "inconclusive": f'INCONCLUSIVE: the claim "{CLAIM}" is neither supported nor rejected',
        }[self.claim]
        label = "INCONCLUSIVE" if self.label == "inconclusive" else self.label
        reasons = "".join(f" {reason[0].upper()}{reason[1:]}." for reason in self.reasons)
        return f"{claim}; the mechanism is {label} ({self.numbers}).{reasons}{' ' + self.note if self.note else ''}"

    @property
    def numbers(self) -> str:
        """The estimates with their 95% intervals and the number of samples."""
        rms = math.exp(float(self.intervals.sel(quantity="log_rms_amplification", confidence=0.95, bound="estimate")))
        amplification = _quote(self.intervals.sel(quantity="log_amplification", confidence=0.95), np.exp)
        slope = _quote(self.intervals.sel(quantity="step_slope", confidence=0.95), lambda value: value)
        plural = "sample" if self.samples == 1 else "samples"
        fewer = f", {self.slopes} of them for p" if 0 < self.slopes < self.samples else ""
        return f"A = {amplification}, RMS {rms:.3g}; slope p = {slope}; n = {self.samples} {plural}{fewer}"


def decide(
    log_amplification: ArrayLike,
    step_slope: ArrayLike | None,
    *,
    low_dose: ArrayLike | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Verdict:
    """Apply the rule to log A [sample] and the slope p of log A on log(number of steps) [sample].

    `step_slope` None means that it was not measured, which leaves claim and mechanism inconclusive. `low_dose`
    [low-dose sample] is log A at dose 0.01: the mechanism is withheld if it gets another label than dose 1, both with
    the same slope.
    The same holds if RMS and geometric mean of A give different labels *and* that excess of the RMS is beyond what
    a log-normal spread of the same size explains (`intermittency_p` < 0.01): with between-sample sd .5 or 1 of log A,
    the RMS of a purely additive system lies above the geometric mean by itself.
    The slope may come from fewer samples than A, where not all were run at every number of steps.
    Fewer than 3 samples are inconclusive. Raises ValueError for arrays that are not one value per sample, are empty,
    have more slopes than amplifications, or hold NaN or infinite values (which are never dropped silently).
    Source: docs/science.md, "The rule and its margins"; intervals BCa (Efron 1987), equivalence by 90% interval
    inclusion (Schuirmann 1987).
    """
    log_a = _samples("log_amplification", log_amplification)
    slope = None if step_slope is None else _samples("step_slope", step_slope)
    low = None if low_dose is None else _samples("low_dose", low_dose)
    if slope is not None and slope.size > log_a.size:
        raise ValueError(f"at most one slope per sample: {log_a.size} log_amplification, {slope.size} step_slope")
    intervals = _intervals(log_a, slope, resamples, seed)
    geometric, rms = label_of(intervals, "log_amplification"), label_of(intervals, "log_rms_amplification")
    reasons: list[str] = []
    fewest = log_a.size if slope is None else slope.size
    if fewest < statistics.FEWEST_SAMPLES:
        reasons.append(f"n = {fewest}: an interval over samples needs at least {statistics.FEWEST_SAMPLES}")
    elif fewest < ROUGH_SAMPLES:
        reasons.append(f"with n = {fewest} bootstrap intervals are too narrow: take no answer here for settled")
    if slope is None:
        reasons.append("the slope p was not measured: it needs runs with several numbers of steps, paired by sample")
    label, intermittent = geometric, rms != geometric and intermittency_p(log_a) < INTERMITTENCY_LEVEL
    if intermittent:
        label = "inconclusive"
        reasons.append(
            f"the geometric mean of A gives {geometric} but its RMS gives {rms}: rare samples amplify strongly, "
            "which no single label describes"
        )
    low_label = None
    if low is not None:
        low_label = label_of(_intervals(low, slope, resamples, seed), "log_amplification")
        if low_label != geometric:
            label = "inconclusive"
            reasons.append(f"dose 0.01 gives {low_label} and dose 1 gives {geometric}: the response is not linear")
    note = power_note(log_a, slope) if "inconclusive" in (geometric, claim_of(intervals)) and not intermittent else ""
    slopes = 0 if slope is None else slope.size
    claim = claim_of(intervals)
    return Verdict(claim, label, intervals, log_a.size, slopes, geometric, rms, low_label, tuple(reasons), note)


def label_of(intervals: xr.DataArray, amplification: str = "log_amplification") -> str:
    """Rules 1 to 4 for `Verdict.intervals`, with the mean log A or "log_rms_amplification" as the amplification.

    A NaN limit fails every comparison and so ends in rule 5, "inconclusive".
    """
    low90, high90, low95, high95 = _bounds(intervals, amplification)
    _, slope_high90, slope_low95, _ = _bounds(intervals, "step_slope")
    margin = LOG_AMPLIFICATION_MARGIN
    flat = slope_high90 < SLOPE_MARGIN
    if low95 > margin and slope_low95 > SLOPE_MARGIN:
        return "multiplicative"
    if low95 > margin and flat:
        return "amplifying"
    if low90 > -margin and high90 < margin and flat:
        return "additive"
    if high95 < -margin and flat:
        return "contractive"
    return "inconclusive"


def claim_of(intervals: xr.DataArray) -> str:
    """Supported, rejected or inconclusive, for `Verdict.intervals`; always inconclusive without a slope."""
    _, _, low95, high95 = _bounds(intervals, "log_amplification")
    _, _, slope_low95, slope_high95 = _bounds(intervals, "step_slope")
    if math.isnan(slope_low95):
        return "inconclusive"
    if low95 > LOG_AMPLIFICATION_MARGIN and slope_low95 > SLOPE_MARGIN:
        return "supported"
    if slope_high95 < SLOPE_MARGIN or high95 < LOG_AMPLIFICATION_MARGIN:
        return "rejected"
    return "inconclusive"


def step_slope(log_amplification: ArrayLike, steps: Sequence[int]) -> np.ndarray:
    """Slope p [sample] of log A [sample, count] on log(number of steps) [count], by least squares, sample by sample.

    A sample that lacks a count (NaN) gets NaN. Raises ValueError for fewer than two different counts, counts below 1,
    or a last axis that does not match `steps`.
    """
    values = np.asarray(log_amplification, dtype=np.float64)
    counts = np.asarray(steps, dtype=np.float64)
    if counts.ndim != 1 or np.unique(counts).size < 2 or (counts < 1).any():
        raise ValueError(f"a slope needs at least two different numbers of steps, for example [50, 250]; got {steps}")
    if values.ndim == 0 or values.shape[-1] != counts.size:
        raise ValueError(f"log_amplification is [sample, count] with {counts.size} counts; got shape {values.shape}")
    x = np.log(counts)
    x = x - x.mean()
    return (values * x).sum(axis=-1) / (x**2).sum()


def log_rms(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Log of the root mean square of A, from log A [..., sample]; does not overflow."""
    return 0.5 * (logsumexp(2 * values, axis=axis) - math.log(values.shape[axis]))


def intermittency_p(log_amplification: ArrayLike, draws: int = 1999) -> float:
    """How often a log-normal A with the same mean, sd and n has an RMS that exceeds its expectation by as much.

    For log-normal A, log RMS = mean + variance of log A; rare large values push the RMS further out. Parametric
    bootstrap [sample] -> p in (0, 1], seed fixed. Constant or fewer than 3 samples give 1.
    """
    values = np.asarray(log_amplification, dtype=np.float64)
    if values.size < statistics.FEWEST_SAMPLES or values.std() < 1e-12:
        return 1.0
    reference = np.random.default_rng(0).normal(0, values.std(ddof=1), (draws, values.size))
    excess, expected = (log_rms(x) - x.mean(axis=-1) - x.var(axis=-1, ddof=1) for x in (values, reference))
    return float((1 + (expected >= excess).sum()) / (1 + draws))


def p_values(log_amplification: ArrayLike, step_slope: ArrayLike) -> dict[str, float]:
    """A p-value for each claim and label of the rule, small where the data speak for it; for Holm over cells.

    t tests instead of the rule's BCa limits, at the same error rates: answers that the rule reads off 95% intervals
    have their one-sided p doubled; where all conditions must hold the largest p counts, where one suffices the least.
    Both arguments [sample], at least 2 samples.
    """
    log_a, slope = np.asarray(log_amplification, dtype=np.float64), np.asarray(step_slope, dtype=np.float64)
    margin = LOG_AMPLIFICATION_MARGIN
    high = 2 * float(statistics.p_above(log_a, margin))
    steep = 2 * float(statistics.p_above(slope, SLOPE_MARGIN))
    flat = float(statistics.p_below(slope, SLOPE_MARGIN))
    not_high = 2 * float(statistics.p_below(log_a, margin))
    p_of = {
        "supported": max(high, steep),
        "rejected": min(2 * flat, not_high),
        "multiplicative": max(high, steep),
        "amplifying": max(high, flat),
        "additive": max(float(statistics.tost(log_a, margin).p), flat),
        "contractive": max(2 * float(statistics.p_below(log_a, -margin)), flat),
    }
    return {name: min(p, 1.0) for name, p in p_of.items()}


def undecided(reason: str) -> Verdict:
    """The verdict on no samples at all."""
    nothing = _intervals(np.array([np.nan]), None, 1, 0)
    return Verdict("inconclusive", "inconclusive", nothing, 0, 0, "inconclusive", "inconclusive", reasons=(reason,))


def power_note(log_amplification: ArrayLike, step_slope: ArrayLike | None) -> str:
    """How many samples would settle the mechanism with 90% power, if the present estimates and sds are right."""
    log_a = np.asarray(log_amplification, dtype=np.float64)
    if step_slope is None or log_a.size < statistics.FEWEST_SAMPLES:
        return ""
    slope = np.asarray(step_slope, dtype=np.float64)
    needed = _samples_needed(log_a.mean(), log_a.std(ddof=1), slope.mean(), slope.std(ddof=1))
    if needed is None:
        return (
            "With estimates like these, more samples would reject the claim but could not name a mechanism: A below "
            "the margin with p above it is outside the rule."
        )
    if needed > MOST_SAMPLES:
        return f"The estimates lie on a margin: even {MOST_SAMPLES:,} samples would not settle it."
    if needed <= min(log_a.size, slope.size):
        return (
            f"Estimates like these are settled by about {needed} samples in nine studies of ten; these {slope.size} "
            "were not enough, so enlarge the study."
        )
    return f"About {needed:,} samples would settle it with 90% power if these estimates and spreads hold."


def _samples_needed(log_a: float, log_a_sd: float, slope: float, slope_sd: float) -> float | None:
    """Samples for the label that the estimates point to; None if the rule has no label there; inf on a margin."""

    def bound(sd: float, distance: float, alpha: float, power: float = 0.90) -> float:
        return math.inf if distance <= 0 else statistics.samples_for_bound(sd, distance, power, alpha)

    margin = LOG_AMPLIFICATION_MARGIN
    if slope > SLOPE_MARGIN:
        if log_a < margin:
            return None
        return max(bound(log_a_sd, log_a - margin, 0.025), bound(slope_sd, slope - SLOPE_MARGIN, 0.025))
    flat = bound(slope_sd, SLOPE_MARGIN - slope, 0.05)
    if abs(log_a) <= margin:  # both ends of the interval must fit: the beta of an equivalence test is split
        return max(flat, bound(log_a_sd, margin - abs(log_a), 0.05, power=0.95))
    return max(flat, bound(log_a_sd, abs(log_a) - margin, 0.025))


def _samples(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        hint = "; reduce [sample, count] with step_slope(log_amplification, steps)" if array.ndim == 2 else ""
        raise ValueError(f"{name} is one value per sample, a non-empty one-dimensional array; got {array.shape}{hint}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        hint = "; pass None if the slope was not measured" if name == "step_slope" else ""
        which = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise ValueError(
            f"{bad.size} of {array.size} values of {name} are NaN or infinite (samples {which}): leave those samples "
            f"out of every argument and say so{hint}"
        )
    return array


def _intervals(log_a: np.ndarray, slope: np.ndarray | None, resamples: int, seed: int) -> xr.DataArray:
    """Intervals [quantity, confidence, bound] of mean log A, log RMS A and mean p."""
    missing = np.full(log_a.size, np.nan)
    limits = np.empty((len(QUANTITIES), len(CONFIDENCE), len(statistics.BOUNDS)))
    sources: tuple[tuple[np.ndarray, Callable], ...]
    sources = ((log_a, np.mean), (log_a, log_rms), (missing if slope is None else slope, np.mean))
    for row, (values, statistic) in enumerate(sources):
        interval = statistics.bca(values, statistic, confidence=CONFIDENCE, resamples=resamples, seed=seed)
        limits[row] = np.stack([interval.low, np.full(len(CONFIDENCE), interval.estimate), interval.high], axis=-1)
    coords = {"quantity": list(QUANTITIES), "confidence": list(CONFIDENCE), "bound": list(statistics.BOUNDS)}
    return xr.DataArray(limits, dims=("quantity", "confidence", "bound"), coords=coords)


def _bounds(intervals: xr.DataArray, quantity: str) -> list[float]:
    """Low and high of the 90%, then of the 95% interval."""
    return intervals.values[QUANTITIES.index(quantity)][:, [0, 2]].ravel().tolist()


def _quote(interval: xr.DataArray, scale) -> str:
    low, estimate, high = (float(scale(interval.sel(bound=bound))) for bound in statistics.BOUNDS)
    if math.isnan(estimate):
        return "not measured"
    return f"{estimate:.3g}" + ("" if math.isnan(low) else f" (95% CI {low:.3g} to {high:.3g})")
