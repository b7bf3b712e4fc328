"""Figures, tables and pages beside a run, each there whole or as it was before: written aside and then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.store.places import PlaceError, check_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file, and put it at `path` when it is done. A link there is replaced, not followed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def save_figure(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Draw a figure into a file whose ending says its format."""
    write_whole(path, lambda aside: figure.savefig(aside, dpi=dpi, bbox_inches="tight"))


def check_picture(path: Path) -> None:
    """Raise PlaceError unless a picture can be written at `path`, in a format that its ending names."""
    from matplotlib.figure import Figure

    known = sorted(Figure().canvas.get_supported_filetypes())
    check_file(path)
    if path.suffix.lstrip(".").lower() not in known:
        raise PlaceError(f"{path}: end the name of the picture in one of .{', .'.join(known)}, for example mask.png")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
