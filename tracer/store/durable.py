"""Files that survive a power cut: sync a file system, write a file whole or not at all.

POSIX local file systems only; object stores and network mounts that reorder writes are not covered.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


@dataclass(frozen=True)
class Disk:
    """A file system that is being written to, by a descriptor that was open before the first write.

    Linux reports an error of writing back to every descriptor that was open when it happened, and to no more than one
    that is opened later. So whoever writes must hold one descriptor from before the first write and sync that one: a
    fresh one learns nothing of an error that another process on the same file system has been told.
    """

    path: Path
    descriptor: int


@contextlib.contextmanager
def opened_disk(path: Path) -> Iterator[Disk]:
    """The file system of a folder, held open."""
    disk = open_disk(path)
    try:
        yield disk
    finally:
        close_disk(disk)


def open_disk(path: Path) -> Disk:
    """The file system of a folder, held open until `close_disk`."""
    return Disk(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def close_disk(disk: Disk) -> None:
    """Let the file system go."""
    os.close(disk.descriptor)


def sync_filesystem(disk: Disk) -> None:
    """Put all that was written to a file system on the disk; OSError when it failed to write any of it since it was
    opened.
    """
    syncfs = getattr(_LIBC, "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(disk.descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"syncfs: {os.strerror(code)}", str(disk.path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, put in its place in one rename when the body is done.

    After an error, such as a full disk, the old file is still there. A link at `path` is replaced, not followed.
    """
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file in one rename; a reader sees the old one or the new one, never a part."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any | None:
    """The value of a JSON file, or None when it is missing or not readable as JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
