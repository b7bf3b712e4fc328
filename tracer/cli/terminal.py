"""What the terminal shows besides results: progress, tables, sizes and durations in words. Imports nothing heavy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from tracer.cli.visible import drawing_on, visible

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]
"""Called with (done, to do)."""
LINE_SECONDS = 30.0
"""Where there is no terminal, a line this often."""


@contextmanager
def progress_bar(name: str, unit: str = "steps") -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere a line on stderr every 30 seconds."""
    if not sys.stderr.isatty():
        yield _lines(name, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        "{task.description}", BarColumn(bar_width=None), MofNCompleteColumn(), unit, TimeRemainingColumn(),
        TimeElapsedColumn(),
    )  # fmt: skip
    console = Console(file=drawing_on(sys.stderr), markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(visible(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(name: str, unit: str) -> Progress:
    start = shown = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= LINE_SECONDS and 0 < done < total:
            shown = now
            left = human_seconds((now - start) / done * (total - done))
            click.echo(f"{name}: {done} of {total} {unit}, about {left} left", err=True)

    return tell


def print_table(frame: pd.DataFrame, most: int | None = None) -> None:
    """A pandas table on the terminal, plain text when piped; at most `most` rows."""
    from rich.console import Console
    from rich.table import Table

    frame = with_index(frame)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fiu"
        table.add_column(visible(str(column)), justify="right" if numeric else "left", overflow="fold")
    for row in frame[:most].itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else visible(str(value)) for value in row))
    to = drawing_on(sys.stdout)
    console = Console(file=to, width=None if to.isatty() else 200, markup=False, emoji=False)
    console.print(table)
    if most is not None and len(frame) > most:
        click.echo(f"… {len(frame) - most} more rows in the CSV")


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a named index turned into columns; a bare row number is dropped."""
    return frame.reset_index(drop=frame.index.names == [None])


def human_bytes(size: float) -> str:
    """1536 -> '1.5 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def human_seconds(seconds: float) -> str:
    """130 -> '2.2 min'."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(seconds, 1):.0f} s"
