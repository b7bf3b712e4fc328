"""How far a long command is: a bar on a terminal, tqdm in a notebook, elsewhere a line every 30 seconds on stderr.

Sizes and durations in words stand here too. Imports nothing heavy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tracer.visible import drawing_on, visible

Progress = Callable[[int, int], None]
"""Called with (done, to do)."""
LINE_SECONDS = 30.0
"""Where there is no terminal, a line this often."""
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


@contextmanager
def _tqdm(name: str, unit: str) -> Iterator[Progress]:
    from tqdm.auto import tqdm

    with tqdm(desc=name, unit=f" {unit}", leave=False, disable=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


@contextmanager
def _rich(name: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        "{task.description}", BarColumn(bar_width=None), MofNCompleteColumn(), unit, TimeElapsedColumn(), "left",
        TimeRemainingColumn(),
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
            print(f"{name}: {done} of {total} {unit}, about {left} left", file=sys.stderr, flush=True)

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
