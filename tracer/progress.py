"""How far a long command is: a bar on a terminal, tqdm in a notebook, elsewhere a line every 30 seconds on stderr.

Sizes and durations in words stand here too. Imports nothing heavy.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from tracer.visible import drawing_on, visible

Progress = Callable[[int, int], None]
"""Called with (done, to do)."""
BYTES = "bytes"
"""The unit that is shown as kB, MB and GB."""
LINE_SECONDS = 30.0
"""Where there is no terminal, a line this often."""
PATIENCE = 1.0
"""Seconds after which it is said what is being done."""
LONGEST_NAME = 24
"""Letters of a name beside the bar, so that at 80 columns the time that is left can be read."""


@contextmanager
def progress_bar(name: str, unit: str = "steps") -> Iterator[Progress]:
    """Shows what it is told; the bar is gone when it is done."""
    if in_notebook():
        with _tqdm(name, unit) as tell:
            yield tell
    elif sys.stderr.isatty():
        with _rich(name, unit) as tell:
            yield tell
    else:
        yield _lines(name, unit)


def shown(asked: Progress | bool | None, name: str) -> AbstractContextManager[Progress | None]:
    """What a Python call shows: a function of somebody's own, nothing for False, else what a command shows."""
    if asked is None or asked is True:
        return progress_bar(name)
    return nullcontext(asked or None)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    kernel = sys.modules.get("IPython")
    shell = kernel.get_ipython() if kernel is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


_READING: ContextVar[Progress | None] = ContextVar("reading", default=None)


@contextmanager
def reading(asked: Progress | bool | None, name: str, *, said: bool = False) -> Iterator[None]:
    """Shows how much of a checkpoint has been read inside it, unless what is asked for is no bar of ours.

    said: whether it is said at once, in a line, where nothing can be drawn. A `reading` inside another shows nothing.
    """
    if asked is False or callable(asked) or _READING.get() is not None:
        yield
        return
    if said and not in_notebook() and not sys.stderr.isatty():
        print(f"loading {name}", file=sys.stderr, flush=True)
    with progress_bar(f"loading {name}", BYTES) as tell:
        token = _READING.set(tell)
        try:
            yield
        finally:
            _READING.reset(token)


def tell_reading(text: str) -> None:
    """A line about what is being read, for whoever is shown how far that is."""
    if _READING.get() is not None:
        print(text, file=sys.stderr, flush=True)


def reading_progress() -> Progress:
    """Who is to be told of bytes that are read, (done, to do); from any thread."""
    return _READING.get() or (lambda done, total: None)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says what is done inside it where that takes longer than PATIENCE, and how long it has taken.

    For work of which nobody can say how far it is: a line that counts seconds on a terminal, gone when it is done;
    elsewhere one line on stderr, and again every 30 seconds. In a notebook nothing.
    """
    if in_notebook():
        yield
        return
    done = threading.Event()
    show = _counted if sys.stderr.isatty() else _said
    teller = threading.Thread(target=show, args=(what, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _said(what: str, done: threading.Event) -> None:
    start, wait = time.monotonic(), PATIENCE
    while not done.wait(wait):
        taken = f", {human_seconds(time.monotonic() - start)} so far" if wait == LINE_SECONDS else ""
        print(f"{what}{taken}", file=sys.stderr, flush=True)
        wait = LINE_SECONDS


def _counted(what: str, done: threading.Event) -> None:
    if done.wait(PATIENCE):
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    console = Console(file=drawing_on(sys.stderr), markup=False, emoji=False)
    with Progress(SpinnerColumn(), "{task.description}", TimeElapsedColumn(), console=console, transient=True) as line:
        line.add_task(visible(what), total=None)
        done.wait()


@contextmanager
def _tqdm(name: str, unit: str) -> Iterator[Progress]:
    from tqdm.auto import tqdm

    in_words = {"unit": "B", "unit_scale": True} if unit == BYTES else {"unit": f" {unit}"}
    with tqdm(desc=name, leave=False, disable=False, **in_words) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


@contextmanager
def _rich(name: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    amount = (DownloadColumn(),) if unit == BYTES else (MofNCompleteColumn(), unit)
    columns = (
        "{task.description}", BarColumn(bar_width=None), *amount, TimeElapsedColumn(), "left", TimeRemainingColumn()
    )  # fmt: skip
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    console = Console(file=drawing_on(sys.stderr), markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(visible(short), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(name: str, unit: str) -> Progress:
    start = shown = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= LINE_SECONDS and 0 < done < total:
            shown = now
            left = human_seconds((now - start) / done * (total - done))
            amount = f"{human_bytes(done)} of {human_bytes(total)}" if unit == BYTES else f"{done} of {total} {unit}"
            print(f"{name}: {amount}, about {left} left", file=sys.stderr, flush=True)

    return tell


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
