"""One measurement of every pipeline of the zoo, in order, told as it goes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.zoo import ZOO
from tests.zoo.entry import Entry
from tracer.quiet import quiet

Row = TypeVar("Row")


def of_every(measured: Callable[[Entry, Path], Row], told: Callable[[str, Row], str]) -> list[Row]:
    """What `measured` gives for each entry and a scratch folder; `told` is the line that is printed of it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(ZOO):
            with quiet():
                rows.append(measured(ZOO[name], Path(folder)))
            print(told(name, rows[-1]), flush=True)
    return rows
