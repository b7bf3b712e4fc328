"""Files that survive a power cut: sync a file system, write a small file whole or not at all.

POSIX local file systems only; object stores and network mounts that reorder writes are not covered.
"""

from __future__ import annotations

import ctypes
import json
import os
import uuid
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def sync_filesystem(path: Path) -> None:
    """Put all that was written to the file system of `path` on the disk; OSError when the disk reports a failure."""
    syncfs = getattr(_LIBC, "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"syncfs: {os.strerror(code)}", str(path))
    finally:
        os.close(descriptor)


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
