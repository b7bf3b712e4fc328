"""Every row of the table in docs/places.md, measured anew. `python -m tests.zoo.places` writes it.

Some rows are measured wherever the tests run; all of them with `pytest -m table`.
"""

from __future__ import annotations

import pytest

from tests.zoo import ZOO
from tests.zoo.places import HEAD, PAGE, measured
from tests.zoo.table import lines_of

ALWAYS = ("auraflow", "wan21")
"""Registers, words without positions and learned positions; rotary positions over frames, and text apart."""
NEAR = 0.1
"""How far a correlation may be from the page's on another machine."""


def cells(line: str) -> dict[str, str]:
    """The cells of a line by their titles."""
    return dict(zip(HEAD, (cell.strip() for cell in line.strip("| ").split(" | ")), strict=False))


def test_the_page_has_a_row_for_every_pipeline():
    named = [cells(line)["pipeline"] for line in lines_of(PAGE.read_text(), "places")[2:]]
    assert named == sorted(ZOO)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.table) for name in sorted(ZOO)]
)
def test_a_row_is_what_the_page_says(name, tmp_path):
    said = next(line for line in lines_of(PAGE.read_text(), "places") if line.startswith(f"| {name} |"))
    row = measured(ZOO[name], tmp_path)
    if not row.positions:
        assert row.line() == said
        return
    page = cells(said)
    assert (page["positions"], page["text has its own"]) == (row.positions, row.text)
    assert abs(float(page["same position"]) - row.same) < NEAR
    assert abs(float(page["with the content"]) - row.content) < NEAR
