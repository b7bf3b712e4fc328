"""What the terminal shows besides results: progress, tables, sizes and durations in words. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
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
        table.add_column(str(column), justify="right" if numeric else "left", overflow="fold")
    for row in frame[:most].itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
    if most is not None and len(frame) > most:
        click.echo(f"… {len(frame) - most} more rows in the CSV")


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a named index turned into columns; a bare row number is dropped."""
    return frame.reset_index(drop=frame.index.names == [None])


def print_json(value: Any) -> None:
    """One JSON object on stdout; paths as text, NaN and infinities as null."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def frame_as_data(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, as data."""
    return _plain(with_index(frame).to_dict("records"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | type(None)) else str(value)


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
