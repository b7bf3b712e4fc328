"""Where output goes, checked before any work: that a folder or a file can be made there, and what to type if not.

Nothing is left behind by a check. `~` is expanded by `expanded`, once, where a path comes in.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from interventions.errors import RunError
from interventions.naming import closest

if TYPE_CHECKING:
    from tracer.store.schema import Schema

LONGEST = 200
"""Bytes of a name at most; stores add to it while they are made, and file systems take 255."""


class PlaceError(RunError):
    """Output cannot go where it was asked to go; the message says where instead."""


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced by the home folder. Raises PlaceError for a user who is not here."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PlaceError(f"{path}: there is no such user here; name the folder in full") from error


def check_new_folder(path: Path) -> None:
    """Raise PlaceError unless a new folder can be made at `path`, or an empty one is there to be used."""
    _check_names(path)
    if path.is_dir() and path.resolve() == Path.cwd():
        raise PlaceError(f"{path} is the folder you are in: use --out NAME for a new one inside it")
    if path.is_dir() and occupied(path):
        if holds_store(path):
            raise PlaceError(f"{path} exists; continue it with --resume, or use --out ELSEWHERE")
        raise PlaceError(f"{path} exists and is not empty: use --out ELSEWHERE")
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raise PlaceError unless files can be written in `path`, or it can be made."""
    _check_names(path)
    there = _nearest(path)
    if not there.is_dir():
        raise PlaceError(f"{there} is a file and no folder: use --out ELSEWHERE")
    check_writable(there, "use --out ELSEWHERE")


def check_writable(folder: Path, remedy: str = "copy it to where you may write") -> None:
    """Raise PlaceError, with this remedy, unless files can be made in an existing folder; none is left there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise PlaceError(f"nothing can be written in {folder} ({why}): {remedy}") from error


def check_file(path: Path) -> None:
    """Raise PlaceError unless a file can be written at `path`, whose folder must be there."""
    _check_names(path)
    if path.is_dir():
        raise PlaceError(f"{path} is a folder: use --out FILE, for example --out {path / 'name'}{path.suffix}")
    if not path.parent.exists():
        raise PlaceError(f"there is no folder {path.parent}: make it first, or use --out ELSEWHERE")
    check_folder(path.parent)


def occupied(path: Path) -> bool:
    """Whether something is at this path that is no empty folder."""
    return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))


def nearest_path(path: Path) -> str:
    """The path that was probably meant by one that does not exist, part by part; "" where none is near."""
    place = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if (place / part).exists():
            place /= part
            continue
        try:
            near = closest(part, [each.name for each in (place if place.parts else Path()).iterdir()])
        except OSError:
            near = ""
        if not near:
            return ""
        place /= near
    return str(place) if place != path else ""


def not_a_store(path: Path, schema: Schema | None = None) -> RunError:
    """The error (returned) for a folder that is no store of ours, or is not there, with the one that was meant."""
    from tracer.store.schema import RUN

    schema = schema or RUN
    hint = "`trace runs` lists the runs there are" if schema is RUN else schema.remedy
    if isinstance(path, Path) and not path.exists() and (near := nearest_path(path)):
        hint = f"did you mean {near}? {hint}"
    return RunError(f"{path} is not a {schema.noun} (it holds no {schema.folder} of ours); {hint}")


def holds_store(path: Path) -> bool:
    """Whether a folder is a run or a sweep of ours, whole or not."""
    from tracer.store.schema import SCHEMAS

    return any((path / schema.folder / "zarr.json").is_file() for schema in SCHEMAS)


def _check_names(path: Path) -> None:
    if long := next((part for part in path.parts if len(os.fsencode(part)) > LONGEST or "\0" in part), None):
        raise PlaceError(f"{long[:40]!r}… is no name for a folder: use --out ELSEWHERE, at most {LONGEST} letters")


def _nearest(path: Path) -> Path:
    """The path itself where it exists, else the closest folder above it that does."""
    place = path.absolute()
    while not os.path.lexists(place):
        place = place.parent
    return place
