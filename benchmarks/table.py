"""The lines of the table of limits: what was measured, its limit, and how both are printed and saved.

Nothing is measured here. A line has a median and quartiles over rounds, and a limit or none.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import CLOCKS, Clock, Row, quartiles


@dataclass(frozen=True)
class Settings:
    """How the table is measured. smoke: tiny networks, once; the numbers mean nothing."""

    rounds: int = 5
    smoke: bool = False
    clock_name: str = "wall"
    root: Path | None = None
    """Folder on the disk that is measured; None: the system's temporary one."""
    threads: int | None = None
    """Of processes that are started; None: torch's own choice."""
    store: Path | None = None
    """A large run that is there already; None: one is made."""

    @property
    def clock(self) -> Clock:
        """Seconds, by that clock."""
        return CLOCKS[self.clock_name]


@dataclass(frozen=True)
class Line:
    """One line: median and quartiles over rounds in a unit, and the limit of the median; None: it is only stated."""

    work: str
    unit: str
    median: float
    low: float
    high: float
    limit: float | None
    rounds: int
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median is within the limit; None where there is no limit."""
        return None if self.limit is None else self.median <= self.limit

    @property
    def verdict(self) -> str:
        """In words."""
        return {True: "met", False: "NOT MET", None: ""}[self.met]

    def cells(self) -> list[str]:
        """As text: what, median, quartiles, limit, verdict, note."""
        spread = "" if self.rounds == 1 else f"[{number(self.low)}, {number(self.high)}]"
        limit = "" if self.limit is None else f"{number(self.limit)} {self.unit}"
        return [self.work, f"{number(self.median)} {self.unit}", spread, limit, self.verdict, self.note]


HEADINGS = ("what", "median", "quartiles", "limit", "", "beside it")


def line(work: str, values: Sequence[float], limit: float | None = None, *, unit: str = "x", note: str = "") -> Line:
    """The line of these values, one for each round."""
    low, middle, high = quartiles(values)
    return Line(work, unit, middle, low, high, limit, len(values), note)


def line_of(row: Row, rounds: int, limit: float | None = None, *, work: str = "", note: str = "") -> Line:
    """The line of a comparison (`measure.compare`): its ratio to the baseline; `work`: another name for it."""
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        raise RuntimeError(f"{row.work}: {row.note}")
    beside = ", ".join(filter(None, [f"{row.milliseconds:.1f} ms against `{row.baseline}`", note or row.note]))
    return Line(work or row.work, "x", row.ratio, row.ratio_low, row.ratio_high, limit, rounds, beside)


def number(value: float) -> str:
    """Three digits behind the point below ten, fewer above."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def printed(row: str, line: Line) -> str:
    """One line of the terminal."""
    work, median, spread, limit, verdict, note = line.cells()
    held = f"limit {limit}" if limit else ""
    return f"{row:<13}{work:<76}{median:>12} {spread:<18}{held:<19}{verdict:<9}{note}".rstrip()


def machine(settings: Settings) -> dict[str, Any]:
    """What the table was measured on, and of which version of the program."""
    import torch

    from tracer.store.provenance import provenance

    made_with = provenance()
    return {
        "processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2), "clock": settings.clock_name, "rounds": settings.rounds,
        "python": made_with["python"], "torch": torch.__version__, "platform": made_with["platform"],
        "git": made_with["git"],
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), platform.machine())


Found = Mapping[str, Sequence[Line]]
"""Row -> its lines."""


def save_json(file: Path, about: Mapping[str, Any], found: Found) -> None:
    """Everything, for programs."""
    rows = {row: [asdict(each) | {"met": each.met} for each in lines] for row, lines in found.items()}
    file.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")


def save_markdown(file: Path, about: Mapping[str, Any], date: str, found: Found) -> None:
    """The table as a page: the machine, the date, and a table with a line for each."""
    git = about["git"] or {"commit": "unknown", "dirty": False}
    clock = "CPU time" if about["clock"] == "cpu" else "wall time"
    page = [
        f"# The table on {about['processor']}, {date}",
        "",
        f"{about['cores']} cores, {about['threads']} threads, load {about['load']} at the start, {about['platform']}; "
        f"Python {about['python']}, torch {about['torch']}.",
        f"{clock.capitalize()}, {about['rounds']} rounds; commit {git['commit'][:12]}{' with changes' * git['dirty']}. "
        "A ratio is paired within its round; `python -m benchmarks` measures it anew.",
        "",
        f"| row | {' | '.join(HEADINGS)} |",
        "|" + "---|" * (1 + len(HEADINGS)),
    ]
    page += [f"| {row} | {' | '.join(each.cells())} |" for row, lines in found.items() for each in lines]
    missed = sum(each.met is False for lines in found.values() for each in lines)
    held = sum(each.limit is not None for lines in found.values() for each in lines)
    page += ["", f"{held - missed} of {held} limits met."]
    file.write_text("\n".join(page) + "\n")


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent of a power law through these points: the slope of their logarithms."""
    return statistics.linear_regression(*([math.log(value) for value in values] for values in (sizes, seconds))).slope
