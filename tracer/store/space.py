"""Whether the disk has room for a run, asked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from tracer.store.schema import RunError


def free_space(path: str | Path) -> int:
    """Bytes free for us on the disk that holds `path`, which need not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(path: str | Path, needed: int) -> None:
    """Raise RunError when the disk that holds `path` has no room for this many bytes."""
    free = free_space(path)
    if needed > free:
        raise RunError(
            f"the run needs about {needed / 1e9:.2f} GB and {path} has {free / 1e9:.2f} GB free; "
            "record less (--record norms), take fewer --samples, or choose another --out"
        )
