"""What a gate found: on a terminal, as Markdown for a pull request, as plain data. It decides nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from analysis.gating.decide import QUALITY_ALONE, SAME_PICTURE, SAME_QUALITY, UNDECIDED, Tested
from analysis.gating.margins import FEWEST, FINISHED, LEVEL

if TYPE_CHECKING:
    from analysis.gating.gate import Gate, Row

SCHEMA = 1
UNITS = {
    "picture": "of the distance between unrelated clean pictures",
    "score": "of the clean standard deviation",
    "share": "of the samples",
    "set": "of the clean variance of features",
}
"""Kind of evidence -> what its loss is measured in."""
VERDICTS = {True: "passed", False: "failed", None: "undecided"}
MOST = 100_000
"""Samples beyond which only "very many" is said: what was seen lies on the margin."""


def text(gate: Gate) -> str:
    """What is printed: every arm with its answer and its evidence, then the gate's own answer."""
    lines = [f"{label}: {title}" for label, title in gate.titles.items()]
    for row in gate.rows:
        lines += ["", f"{_name(gate, row)}: {row.judged.answer}{because(row, gate.require)}"]
        lines += [f"  {clause(tested)}" for tested in row.judged.tested]
        if told := above_floor(row):
            lines.append(f"  {told}")
    lines += ["", *gate.notes, f"gate {conclusion(gate)}"]
    return "\n".join(lines)


def markdown(gate: Gate) -> str:
    """A line that says whether the gate passed, one table, and how to read it."""
    rows = [
        "| arm | answer | picture: distance to clean | quality lost | final error above rounding | samples |",
        "|---|---|---|---|---|---|",
    ]
    for row in gate.rows:
        pictures, quality = (row.judged.of(picture=which) for which in (True, False))
        cells = [
            f"`{_name(gate, row)}`",
            f"**{row.judged.answer}**{because(row, gate.require)}",
            "<br>".join(map(cell, pictures)) or "not measured",
            "<br>".join(map(cell, quality)) or "not measured",
            _times(row),
            str(row.samples),
        ]
        rows.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    titles = "; ".join(dict.fromkeys(gate.titles.values()))
    legend = "; ".join(f"{kind} {gate.margins[kind]:g} {UNITS[kind]}" for kind in gate.margins if _kinds(gate) & {kind})
    return "\n".join([
        f"**trace gate {conclusion(gate)}**", "", *rows, "",
        f"{titles}. Paired with clean by sample; [limits] are of two one-sided tests at {LEVEL:.0%}, answers are "
        f"corrected for {len(gate.rows)} {'arm' if len(gate.rows) == 1 else 'arms'} (Holm). Margins: {legend}."
        + "".join(f" {note}" for note in gate.notes),
    ])  # fmt: skip


def conclusion(gate: Gate) -> str:
    """ "passed: every arm is at least of the same quality", or which arms are not."""
    same = gate.require == "same-picture"
    if gate.passed:
        one = "the arm" if len(gate.rows) == 1 else "every arm"
        return f"passed: {one} {'gives the same picture' if same else 'is at least of the same quality'}"
    parts = []
    for met, worded in (
        (False, "gives another picture or a worse one" if same else "is worse"),
        (None, "is not shown to give the same picture" if same else "is not shown to be as good"),
    ):
        if named := [_name(gate, row) for row in gate.rows if row.judged.meets(gate.require) is met]:
            parts.append(f"{', '.join(named)} {worded}" if len(named) == 1 else f"each of {', '.join(named)} {worded}")
    return f"{VERDICTS[gate.passed]}: {'; '.join(parts)}"


def because(row: Row, require: str) -> str:
    """What stands behind an answer: which evidence decides, is missing, or how many samples it would take."""
    judged = row.judged
    if judged.diverged:
        lost = f", {judged.diverged} {'sample' if judged.diverged == 1 else 'samples'} diverged"
        return lost if judged.quality == "worse" else f"{lost}, so that no good answer is given"
    if judged.quality == "worse":
        return f" by {', '.join(each.evidence.metric for each in judged.of(picture=False) if each.shown == 'beyond')}"
    better = [each.evidence.metric for each in judged.of(picture=False) if each.shown == "better"]
    if judged.answer in (SAME_PICTURE, SAME_QUALITY):
        return f", better by {', '.join(better)}" if better and judged.answer == SAME_QUALITY else ""
    if judged.meets(require) is not None and judged.answer != UNDECIDED:
        return ""
    return f", {missing(row, require)}"


def missing(row: Row, require: str) -> str:
    """What an undecided arm lacks."""
    judged = row.judged
    if row.samples < FEWEST:
        return f"{row.samples} samples are too few: nothing is claimed below {FEWEST}"
    asked = judged.of(picture=True) if judged.answer == QUALITY_ALONE else judged.of(picture=False)
    if not asked:
        return f"no {'distance' if judged.answer == QUALITY_ALONE else 'score'} of its pictures: add --metric"
    what = ", ".join(_open(each, judged.arms) for each in asked if each.shown == "undecided")
    what = what or f"not after Holm's correction for {judged.arms} arms"
    needed = judged.needed(require)
    if not needed:
        return what
    if needed > MOST:
        return f"{what} and on it: no reasonable number of samples would decide"
    return f"{what}; about {needed} samples would decide"


def _open(tested: Tested, arms: int) -> str:
    """Why one metric decides nothing."""
    one = tested.evidence
    beyond = one.interval()[0] > one.margin
    return f"{one.metric} {'beyond' if beyond else 'across'} the margin" + (
        f" before Holm's correction for {arms} arms" if beyond else ""
    )


def clause(tested: Tested) -> str:
    """One metric's evidence in a line: the loss with its limits, the unit, the margin."""
    one = tested.evidence
    if one.metric == FINISHED:
        lost = limited(one.estimate, *one.interval())
        return f"finished: {one.value:.0%} of the samples, {lost} lost (margin {one.margin:g})"
    what = "apart by" if one.kind in ("picture", "set") else "lower by" if one.estimate >= 0 else "higher by"
    return f"{one.metric}: {what} {_signed(tested)} {UNITS[one.kind]} (margin {one.margin:g})"


def _signed(tested: Tested) -> str:
    """The size of a loss or of a gain, with its limits in that direction."""
    one = tested.evidence
    low, high = one.interval()
    gain = one.kind not in ("picture", "set") and one.estimate < 0
    return limited(-one.estimate, -high, -low) if gain else limited(one.estimate, low, high)


def cell(tested: Tested) -> str:
    """The same in a cell of a table: a positive number is a loss."""
    one = tested.evidence
    return f"{one.metric} {limited(one.estimate, *one.interval())} of {one.margin:g}"


def limited(value: float, low: float, high: float) -> str:
    """ "0.12 [0.08, 0.16]"; without limits where there are none."""
    return _number(value) + (f" [{_number(low)}, {_number(high)}]" if math.isfinite(low + high) else "")


def _number(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    return f"{value:.2g}" if 0 < abs(value) < 0.1 else f"{value + 0.0:.2f}"


def above_floor(row: Row) -> str:
    """How far the final error is above what rounding alone does; "" where there is no floor."""
    least, median, most = row.above_floor
    if math.isnan(median):
        return ""
    if most == 0:
        return "equal to clean bit for bit"
    if row.is_rounding:
        return f"indistinguishable from rounding: at most {most:.2g} times what rounding alone does"
    if math.isinf(median):
        return "rounding alone changes nothing here, this does"
    part = f" ({least:.2g} to {most:.2g} over samples)" if math.isfinite(most) else ""
    return f"exceeds what rounding alone does by {median:.2g} times{part}"


def _times(row: Row) -> str:
    median = row.above_floor[1]
    if math.isnan(median):
        return "not measured"
    if row.is_rounding:
        return "bit for bit equal" if row.above_floor[2] == 0 else "rounding"
    return f"{median:.2g} times" if math.isfinite(median) else "rounding is 0"


def records(gate: Gate) -> list[dict[str, Any]]:
    """A record for every metric of every arm."""
    return [
        {"run": row.run, "arm": row.arm, "answer": row.judged.answer, **evidence(tested, row.judged.arms)}
        for row in gate.rows
        for tested in row.judged.tested
    ]


def evidence(tested: Tested, arms: int) -> dict[str, Any]:
    """One metric of one arm as plain data."""
    one = tested.evidence
    low, high = one.interval()
    return {
        "metric": one.metric, "kind": one.kind, "unit": UNITS[one.kind], "clean": one.clean, "value": one.value,
        "loss": one.estimate, "low": low, "high": high, "margin": one.margin, "samples": one.samples,
        "p_within": tested.p_within, "p_beyond": tested.p_beyond, "p_better": tested.p_better, "shown": tested.shown,
        "needed": one.needed(arms),
    }  # fmt: skip


def data(gate: Gate) -> dict[str, Any]:
    """The whole gate as plain data."""
    return {
        "schema": SCHEMA,
        "require": gate.require,
        "gate": VERDICTS[gate.passed],
        "sentence": f"gate {conclusion(gate)}",
        "level": LEVEL,
        "margins": dict(gate.margins),
        "runs": dict(gate.titles),
        "notes": list(gate.notes),
        "arms": [_arm(gate, row) for row in gate.rows],
    }


def _arm(gate: Gate, row: Row) -> dict[str, Any]:
    judged, (least, median, most) = row.judged, row.above_floor
    return {
        "run": row.run, "arm": row.arm, "answer": judged.answer, "picture": judged.picture, "quality": judged.quality,
        "meets": judged.meets(gate.require), "why": because(row, gate.require).lstrip(", "), "samples": row.samples,
        "diverged": judged.diverged, "p_picture": judged.p_picture, "p_quality": judged.p_quality,
        "needed": judged.needed(gate.require),
        "above_floor": {"median": median, "least": least, "most": most, "rounding": row.is_rounding,
                        "sentence": above_floor(row)},
        "evidence": [evidence(tested, judged.arms) for tested in judged.tested],
    }  # fmt: skip


def _kinds(gate: Gate) -> set[str]:
    return {tested.evidence.kind for row in gate.rows for tested in row.judged.tested}


def _name(gate: Gate, row: Row) -> str:
    return row.arm if len(gate.titles) == 1 else f"{row.run} {row.arm}"
