"""What the terminal shows besides results: progress, tables, sizes and durations in words. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from tracer.progress import human_bytes as human_bytes
from tracer.progress import human_seconds as human_seconds
from tracer.progress import progress_bar as progress_bar
from tracer.progress import working as working
from tracer.visible import drawing_on, visible

if TYPE_CHECKING:
    import pandas as pd


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
