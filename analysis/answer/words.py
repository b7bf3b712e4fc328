"""Answers in plain words: always the estimate with its interval, and what it was asked.

It decides nothing. Intervals are (confidence, bound) arrays on the natural scale: ratios as ratios, slopes as slopes.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from analysis.answer.margins import CLAIM, LABELS, MARGIN, SATURATED, SLOPE_MARGIN, UNDECIDED, WORDS_MARGIN
from analysis.common.nouns import Wording
from analysis.common.statistics import BOUNDS

MASKS = Wording()

SUBJECTS = {"feedback": "feedback S", "along": "amplification along the trajectory", "steps_answer": "slope p_S"}
MEANINGS = {
    "amplifying": "{acted} steps inject more because of the error that they find",
    "damping": "{acted} steps inject less because of the error that they find",
    "amplified": "the trajectory amplifies the error",
    "contracted": "the trajectory absorbs a part of the error",
    "grows": "feedback grows with the number of steps",
    "shrinks": "feedback shrinks with the number of steps",
}


def answer(question: str, label: str, interval: xr.DataArray, called: Wording = MASKS) -> str:
    """One answer, such as "feedback S 1.20 [1.08, 1.33], across the margin of 1.25: undecided, and at most 1.33"."""
    low, estimate, high = limits(interval)
    subject = SUBJECTS[question]
    if math.isnan(estimate):
        return f"{subject} not measured: {UNDECIDED}"
    text = f"{subject} {quoted(interval)}"
    if math.isnan(low):
        return f"{text}: {UNDECIDED}"
    if label == UNDECIDED:
        return text + _open(question, low, high)
    if label in MEANINGS:
        return f"{text}: {label}, {MEANINGS[label].format(acted=called.acted)}"
    return f"{text}: {label}, {_absence(question, interval)}"


def quoted(interval: xr.DataArray) -> str:
    """An estimate with its 95% interval: "1.20 [1.08, 1.33]"."""
    low, estimate, high = limits(interval)
    if math.isnan(estimate):
        return "not measured"
    return number(estimate) + ("" if math.isnan(low) else f" [{number(low)}, {number(high)}]")


def percent(interval: xr.DataArray) -> str:
    """A share with its 95% interval: "69% [67%, 70%]"."""
    low, value, high = limits(interval)
    if math.isnan(value):
        return "not measured"
    return f"{value:.0%}" + ("" if math.isnan(low) else f" [{low:.0%}, {high:.0%}]")


def number(value: float) -> str:
    """Three digits, two decimals from .1 up to 10, and no negative zero."""
    if 0.1 <= abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.3f}".replace("-0.000", "0.000") if abs(value) < 0.1 else f"{value:.3g}"


def limits(interval: xr.DataArray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Low, estimate and high."""
    at = interval.sel(confidence=confidence)
    low, estimate, high = (float(at.sel(bound=bound)) for bound in BOUNDS)
    return low, estimate, high


def _open(question: str, low: float, high: float) -> str:
    upper = SLOPE_MARGIN if question == "steps_answer" else MARGIN
    lower = -SLOPE_MARGIN if question == "steps_answer" else 1 / MARGIN
    if low <= lower and high >= upper:
        return f", across both margins ({lower:g} and {upper:g}): {UNDECIDED}"
    if high >= upper:
        return f", across the margin of {upper:g}: {UNDECIDED}, and at most {number(high)}"
    if low <= lower:
        return f", across the margin of {lower:g}: {UNDECIDED}, and at least {number(low)}"
    return f": {UNDECIDED}"


def _absence(question: str, interval: xr.DataArray) -> str:
    """What an equivalence within the margins shows: less than a tenth where the 90% interval says so."""
    low, _, high = limits(interval, 0.90)
    if question == "steps_answer":
        return f"within {SLOPE_MARGIN:g} either way"
    margin = WORDS_MARGIN if low > 1 / WORDS_MARGIN and high < WORDS_MARGIN else MARGIN
    return f"less than {margin:g}-fold either way"


def dose(strength: float) -> str:
    """A dose in words."""
    return "full dose" if strength == 1 else f"dose {strength:g}"


def named(view: xr.Dataset) -> str:
    """What an arm is a dose of, with the dose, from the coordinates `mask` and `dose`: "R4S32", "R4S32 x 0.1"."""
    strength = float(view["dose"])
    return str(view["mask"].item()) + ("" if strength == 1 else f" × {strength:g}")


def saturation(spreads: float) -> str:
    """The final error in spreads, with a warning where it cannot show growth; "" where it is not known."""
    if not np.isfinite(spreads):
        return ""
    text = f"the final error is {number(spreads)} spreads"
    if spreads <= SATURATED:
        return text
    return text + ", above half of what two unrelated pictures differ by (1.41): saturated, growth may not show"


def claim(answers: dict[float, str], called: Wording = MASKS) -> str:
    """Whether the paper's claim holds, by dose; `answers` maps a dose to supported, refuted or open."""
    doses, said = sorted(answers, reverse=True), CLAIM.format(errors=called.errors)
    if len(set(answers.values())) == 1:
        where = f"at {dose(doses[0])}" if len(doses) == 1 else "at every dose measured"
        return f'The claim "{said}" is {answers[doses[0]]} {where}'
    parts = ", ".join(f"{answers[each]} at {dose(each)}" for each in doses)
    return f'The claim "{said}" is {parts}'


QUESTIONS = tuple(LABELS)
