"""What the terminal shows besides results: progress, tables, sizes and durations in words. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from tracer.progress import human_bytes as human_bytes
from tracer.progress import human_seconds as human_seconds
from tracer.progress import progress_bar as progress_bar
from tracer.progress import working as working
from tracer.visible import drawing_on, visible

if TYPE_CHECKING:
    import pandas as pd

GAP = 2
"""Columns between two of a table."""
LONGEST_WORD = 24
"""Letters of a word that is kept whole in a table; a longer one is a list or a path."""


def print_table(frame: pd.DataFrame, most: int | None = None) -> None:
    """A pandas table on the terminal, plain text when piped; at most `most` rows.

    On a terminal too narrow for it a row is a few lines, a column on each, so that no word is broken.
    """
    from rich.console import Console
    from rich.table import Table

    frame = with_index(frame)
    rows = [[_cell(value) for value in row] for row in frame[:most].itertuples(index=False)]
    names = [visible(str(column)) for column in frame.columns]
    least = [max(map(_longest_word, cells)) for cells in zip(names, *rows, strict=True)]
    to = drawing_on(sys.stdout)
    console = Console(file=to, width=None if to.isatty() else 200, markup=False, emoji=False)
    if to.isatty() and sum(least) + GAP * (len(least) - 1) > console.width:
        click.echo("\n\n".join(_upright(names, row) for row in rows))
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        natural = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
        widths = _fitted(natural, least, console.width)
        for name, width, kind in zip(names, widths, frame.dtypes, strict=True):
            justify: Literal["right", "left"] = "right" if kind.kind in "fiu" else "left"
            table.add_column(name, justify=justify, overflow="fold", width=width)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if most is not None and len(frame) > most:
        click.echo(f"… {len(frame) - most} more rows in the CSV")


def _longest_word(text: str) -> int:
    """Letters of the longest word, as far as it is kept whole."""
    return min(max(map(len, text.split()), default=0), LONGEST_WORD)


def _fitted(natural: list[int], least: list[int], width: int) -> list[int]:
    """Widths of columns that fit together, none below its least: those that have most to give are narrowed."""
    widths = list(natural)
    while sum(widths) + GAP * (len(widths) - 1) > width and widths != least:
        spare = [own - kept for own, kept in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))


def _upright(columns: list[str], row: list[str]) -> str:
    """A row as lines `column  value`; what is empty is left out."""
    wide = max(map(len, columns))
    return "\n".join(f"{name:{wide}}  {value}" for name, value in zip(columns, row, strict=True) if value)


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
