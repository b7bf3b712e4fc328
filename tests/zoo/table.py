"""The tables of docs/models.md, from measured rows, and where they stand on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.zoo.measure import Row

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FOUND = (
    "pipeline", "family", "state (frames x channels x height x width)", "tokens", "agreement", "scheduler",
    "network's answer", "additive null",
)  # fmt: skip
MEASURED = (
    "pipeline",
    "clean",
    "pictures",
    "F(x), G(y)",
    "`full`",
    "`R1S0`",
    "`R1S0` from step 2",
    "`sink-k1@keys=text`",
    "in one batch",
)


def found(row: Row) -> str:
    """Line of the table of what is found."""
    if row.state is None:
        return line(row.name, row.family, "refused", *[""] * (len(FOUND) - 3))
    agreement = "-" if math.isnan(row.agreement) else f"{row.agreement:.2f}"
    scheduler = row.sampler + "".join(mark for mark, here in (("\\*", row.noise), ("†", row.history)) if here)
    state, null = " x ".join(map(str, row.state)), "no" if row.null else "yes"
    return line(row.name, row.family, state, row.found, agreement, scheduler, row.prediction, null)


def numbers(row: Row) -> str:
    """Line of the table of what is measured."""
    values = (row.clean, row.pictures, row.identities, row.floor, row.mask, row.fork, row.sinks, row.together)
    return line(row.name, *("-" if math.isnan(value) else f"{value:.0e}" if value else "0" for value in values))


def reasons(rows: Iterable[Row]) -> list[str]:
    """What is refused, in the program's own words, a line each."""
    lines = [f"- `{row.name}`: {reason}" for row in rows for reason in row.refused]
    nulls: dict[str, list[str]] = {}
    for row in rows:
        if row.null:
            nulls.setdefault(row.null, []).append(f"`{row.name}`")
    return [*lines, *(f"- `null` with {', '.join(names)}: {why}" for why, names in nulls.items())]


def sections(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Lines of the page by the name of their markers."""
    return {
        "found": [line(*FOUND), line(*["---"] * len(FOUND)), *map(found, rows)],
        "measured": [line(*MEASURED), line(*["---"] * len(MEASURED)), *(numbers(row) for row in rows if row.state)],
        "refused": reasons(rows),
    }


def written(page: str, rows: Sequence[Row]) -> str:
    """The page with its tables replaced."""
    return filled(page, sections(rows))


def filled(page: str, tables: Mapping[str, Sequence[str]]) -> str:
    """The page with these lines between the markers of each name."""
    for name, lines in tables.items():
        start, end = (page.index(mark) for mark in _marks(name))
        page = page[: start + len(_marks(name)[0])] + "\n".join(["", *lines, ""]) + page[end:]
    return page


def lines_of(page: str, name: str) -> list[str]:
    """The lines between the markers of a name."""
    start, end = _marks(name)
    return page.split(start)[1].split(end)[0].strip().splitlines()


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- zoo: {name} -->", f"<!-- end of {name} -->"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
