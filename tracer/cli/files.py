"""Figures, tables and pages beside a run, each there whole or as it was before: written aside and then renamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tracer.store.durable import replacing
from tracer.store.places import PlaceError, check_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Draw a figure into a file whose ending says its format."""
    with replacing(path) as aside:
        figure.savefig(aside, dpi=dpi, bbox_inches="tight")


def check_picture(path: Path) -> None:
    """Raise PlaceError unless a picture can be written at `path`, in a format that its ending names."""
    from matplotlib.figure import Figure

    known = sorted(Figure().canvas.get_supported_filetypes())
    check_file(path)
    if path.suffix.lstrip(".").lower() not in known:
        raise PlaceError(f"{path}: end the name of the picture in one of .{', .'.join(known)}, for example mask.png")
