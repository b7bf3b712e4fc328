"""Numbered folders: `runs/dit-R4S32`, `runs/dit-R4S32-2`, ... The one place where a free name is chosen."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from tracer.store.schema import RunError


class TakenError(RunError):
    """The path exists: another process, or an earlier day, was quicker."""


def free_folder(path: str | Path) -> Path:
    """The path itself, or the first of `path-2`, `path-3`, ... that does not exist. Nothing is made.

    Another process may take it in between; `store.create` then refuses, and `at_free_folder` goes on.
    """
    return next(candidate for candidate in _candidates(path) if not candidate.exists())


def latest_folder(path: str | Path) -> Path | None:
    """The last of `path`, `path-2`, ... before the first that does not exist; None when there is none."""
    taken = list(itertools.takewhile(Path.exists, _candidates(path)))
    return taken[-1] if taken else None


def at_free_folder(path: str | Path, make: Callable[[Path], None]) -> Path:
    """Let `make` make the first of `path`, `path-2`, ... that is free, and return it; `make` raises TakenError when
    another process was quicker, and is then asked for the next.
    """
    for candidate in _candidates(path):
        if not candidate.exists():
            with contextlib.suppress(TakenError):
                make(candidate)
                return candidate
    raise AssertionError("there is always another number")


def make_free_folder(path: str | Path) -> Path:
    """Make the first of `path`, `path-2`, ... that does not exist, and return it; two processes never get the same."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for candidate in _candidates(path):
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("there is always another number")


def _candidates(path: str | Path) -> Iterator[Path]:
    path = Path(path)
    yield path
    yield from (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
