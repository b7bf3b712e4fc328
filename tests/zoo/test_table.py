"""Every row of the tables in docs/models.md, measured anew. `python -m tests.zoo` writes them.

Some rows are measured wherever the tests run; all of them with `pytest -m table`.
"""

from __future__ import annotations

import math

import pytest

from tests.zoo import ZOO
from tests.zoo.measure import Row, measured
from tests.zoo.table import PAGE, found, lines_of, numbers, reasons

ALWAYS = (
    "dit-ddpm", "sd15-pndm", "sd35", "flux1-cfg", "flux2", "lumina2", "z-image", "sana", "cogvideox-dpm", "wan21-i2v",
)  # fmt: skip
"""Rows that differ most from each other: packed and joined states, lists, videos, memory, noise, two calls."""
CLOSE = 1e-5  # relative: float32 against float64 through four steps of a random network
AWAY = 300  # times the distance, at least, is what a mask in all steps changes
DEPARTS = 10  # the same of a mask in the last steps, where some states are hundreds of times as large as a step


def test_the_page_has_a_row_for_every_pipeline():
    named = [line.split(" | ")[0].removeprefix("| ") for line in lines_of(PAGE.read_text(), "found")[2:]]
    assert named == sorted(ZOO)
    assert len(named) >= 24


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.table) for name in sorted(ZOO)]
)
def test_a_row_is_what_the_page_says(name, tmp_path):
    row, page = measured(ZOO[name], tmp_path), PAGE.read_text()
    assert found(row) in lines_of(page, "found")
    assert all(line in lines_of(page, "refused") for line in reasons([row]) if not line.startswith("- `null`"))
    if row.state is None:
        assert row.refused
    else:
        _found_right(row)
        _measured_right(row, lines_of(page, "measured"))


def _found_right(row: Row) -> None:
    """The state and every token of every call, against what the architecture's source says."""
    assert row.state == ZOO[row.name].known.state
    assert row.right == 1
    assert row.unpacked < 1e-6


def _measured_right(row: Row, lines: list[str]) -> None:
    """What is equal is equal to the last bit, and what is rounding is rounding."""
    assert (row.clean, row.pictures, row.identities) == (0, 0, 0)
    apart = [value for value in (row.mask, row.fork, row.sinks) if not math.isnan(value)]
    assert max(*apart, row.floor) <= CLOSE
    assert math.isnan(row.together) or row.together <= CLOSE
    assert row.acts >= AWAY * max(apart)
    assert math.isnan(row.departs) or row.departs >= DEPARTS * row.fork
    line = next(line for line in lines if line.startswith(f"| {row.name} |"))
    cells = zip(line.split(" | "), numbers(row).split(" | "), strict=True)
    assert all((said == "-") == (here == "-") for said, here in cells)
