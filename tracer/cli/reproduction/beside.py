"""Published values beside ours: one line a row of the recipe, with what may be said of the two, in words.

At paper scale a row says whether the two agree. At embedded scale it never does: another network, other pictures and
other metrics are measured there, so only the pattern that the paper claims is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.common import agreement
from analysis.common.agreement import Estimate
from tracer.cli.reproduction.recipe import RecipeError, Row

APART, MISSING = "cannot be compared", "not measured"
_VALUES = ("mean", "estimate", "value")
"""What the tables of our analyses call a value between `low` and `high`."""


@dataclass(frozen=True)
class Beside:
    """A row, what was measured for it, and whether that may be compared with what is published."""

    row: Row
    ours: Estimate
    comparable: bool
    problem: str = ""
    """Why there is nothing to read, such as a measure that refused."""

    @property
    def verdict(self) -> str:
        """`agree`, `differ`, `undecided`; "cannot be compared"; "" where nothing is published as a number."""
        if self.problem:
            return MISSING
        if not self.row.published:
            return ""
        if not self.comparable:
            return APART
        return agreement.agreement(self.ours, Estimate.of(self.row.published), self.row.margin)

    @property
    def pattern(self) -> str:
        """`same pattern`, `other pattern`, `not told`; "" where no pattern is claimed."""
        return agreement.pattern(self.ours, self.row.claim) if self.row.claim and not self.problem else ""


def beside(rows: Sequence[Row], *, comparable: bool) -> list[Beside]:
    """Every row with its value, or with what is missing of it."""
    return [_beside(row, comparable) for row in rows]


def _beside(row: Row, comparable: bool) -> Beside:
    try:
        ours = measured(row)
    except RecipeError as error:
        return Beside(row, Estimate.of((math.nan,)), comparable, str(error))
    problem = "" if math.isfinite(ours.value) else f'row "{row.what}": its line of {row.table} has no number'
    return Beside(row, ours, comparable, problem)


def measured(row: Row) -> Estimate:
    """What the table of a row says: the one line that `pick` names. Raises RecipeError where there is no such line."""
    file = Path(row.table)
    if not file.is_file():
        raise RecipeError(f'row "{row.what}": there is no {file}, which its commands should have written')
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if strange := [column for column in row.pick if column not in table]:
        raise RecipeError(f'row "{row.what}": {file} has no column {strange[0]!r}; it has {", ".join(table)}')
    chosen = table
    for column, text in row.pick.items():
        chosen = chosen[chosen[column] == text]
        if chosen.empty:
            there = ", ".join(dict.fromkeys(table[column]))
            raise RecipeError(f'row "{row.what}": {file} has no line with {column} = {text!r}; it has {there}')
    if len(chosen) > 1:
        raise RecipeError(f'row "{row.what}": {len(chosen)} lines of {file} have {dict(row.pick)}; name one')
    columns = row.columns or ("low", next((name for name in _VALUES if name in table), _VALUES[0]), "high")
    if strange := [column for column in columns if column not in table]:
        raise RecipeError(f'row "{row.what}": {file} has no column {strange[0]!r}; it has {", ".join(table)}')
    return Estimate.of(tuple(_number(chosen[column].iloc[0]) for column in columns))


def _number(text: str) -> float:
    return float(text) if text else math.nan


def frame(lines: Sequence[Beside]) -> pd.DataFrame:
    """The whole table as numbers, for the CSV."""
    return pd.DataFrame(
        {
            "what": line.row.what,
            **_named("published", _published(line.row)),
            **_named("ours", line.ours),
            "margin": line.row.margin or math.nan,
            "claim": line.row.claim,
            "verdict": line.verdict,
            "pattern": line.pattern,
        }
        for line in lines
    )


def _published(row: Row) -> Estimate:
    return Estimate.of(row.published or (math.nan,))


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}


def shown(lines: Sequence[Beside]) -> pd.DataFrame:
    """The table as it is read: what is published or claimed, ours, and what may be said of the two."""
    published = any(line.row.published for line in lines)
    return pd.DataFrame(
        {
            "what": line.row.what,
            **({"published": written(_published(line.row))} if published else {}),
            "claimed": line.row.claim,
            "ours": written(line.ours),
            "the two": ", ".join(filter(None, (line.verdict, line.pattern))),
        }
        for line in lines
    )


def written(estimate: Estimate) -> str:
    """`0.295 [0.265, 0.323]`, to three digits; "" where there is no value.

    Without brackets where no interval is known, or none of any width: a count is no estimate.
    """
    if not math.isfinite(estimate.value):
        return ""
    interval = f" [{estimate.low:.3g}, {estimate.high:.3g}]" if estimate.low < estimate.high else ""
    return f"{estimate.value:.3g}{interval}"


def sentence(lines: Sequence[Beside]) -> str:
    """What may be said of all rows together."""
    patterns, verdicts = Counter(line.pattern for line in lines), Counter(line.verdict for line in lines)
    texts = []
    numbers = sum(bool(line.row.published) for line in lines)
    if numbers and all(line.comparable for line in lines):
        texts.append(
            f"Of {_count(numbers, 'published value')} {verdicts[agreement.AGREE]} agree within their margins, "
            f"{verdicts[agreement.DIFFER]} differ beyond them, {verdicts[agreement.UNDECIDED]} are undecided."
        )
    elif numbers:
        texts.append("No number here can be compared with a published one: network, pictures and metrics are others.")
    if claims := sum(bool(line.row.claim) for line in lines):
        texts.append(
            f"Of {_count(claims, 'claimed pattern')} {patterns[agreement.SAME]} are seen, "
            f"{patterns[agreement.OTHER]} are contradicted, {patterns[agreement.NOT_TOLD]} are not told. "
            "Every row is judged by itself, without correction over rows."
        )
    if missing := verdicts[MISSING]:
        texts.append(f"{_count(missing, 'row')} could not be read.")
    return " ".join(texts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
