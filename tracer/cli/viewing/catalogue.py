"""Which runs `trace view` serves: those that the listing finds, opened when asked for and again when they grow.

Nothing else can be opened: a name is looked up among those found, and is never made into a path.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from interventions.errors import RunError
from tracer import store
from tracer.cli.listing import Line, found
from tracer.command import with_command
from tracer.store.places import holds_store
from tracer.store.remote import is_remote
from tracer.store.shards import read_status

if TYPE_CHECKING:
    import xarray as xr

KEPT = 8
"""Runs that are held open."""


class NotFoundError(RunError):
    """There is no such run, arm, sample or page."""


@dataclass(frozen=True)
class Opened:
    """An opened run. version: changes when the run does. warnings: what opening it said, such as damage it masked."""

    line: Line
    tree: xr.DataTree
    version: str
    warnings: tuple[str, ...]


class Catalogue:
    """Runs and sweeps of places, each a folder of them or a run itself, all absolute; for many threads at once."""

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = tuple(places)
        self._lines: dict[str, Line] = {}
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.RLock()

    def lines(self) -> list[Line]:
        """Everything there is now, newest first, then what cannot be read."""
        by_name = {line.name: line for line in self._found()}
        self._lines = dict(sorted(by_name.items(), key=lambda item: item[1].created, reverse=True))
        return list(self._lines.values())

    def line(self, name: str) -> Line:
        """The run or sweep of this name. Raises NotFoundError when the listing has none."""
        if name not in self._lines:
            self.lines()
        if name not in self._lines:
            raise NotFoundError(f"there is no run {name!r} here; the list of runs has those that can be opened")
        return self._lines[name]

    def open(self, name: str) -> Opened:
        """The run of this name as it is now, with its command. Raises NotFoundError, and RunError for a damaged one."""
        line = self.line(name)
        if line.problem:
            raise RunError(f"{name} cannot be read: {line.problem}")
        if line.kind != "run":
            raise NotFoundError(f"{name} is a {line.kind}, and only runs have trajectories to view")
        with self._lock:
            now = version(line.path)
            held = self._opened.get(name)
            if held is None or held.version != now:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    tree = with_command(store.open_run(line.path))
                held = Opened(line, tree, now, tuple(str(each.message) for each in said))
            self._opened[name] = held
            self._opened.move_to_end(name)
            while len(self._opened) > KEPT:
                self._opened.popitem(last=False)
            return held

    def _found(self) -> list[Line]:
        """What the places hold, named from the one folder they are all in."""
        runs = [place for place in self.places if holds_store(place)]
        beside = {parent: found(parent, depth=1) for parent in dict.fromkeys(run.parent for run in runs)}
        lines = [line for parent in beside for line in beside[parent] if line.path in runs]
        folders = [place for place in self.places if place not in runs]
        lines += [_inside(line, folder) for folder in folders for line in found(folder)]
        root = common_folder([*beside, *folders])
        return [replace(line, name=str(line.path.relative_to(root) if root else line.path)) for line in lines]


def common_folder(folders: Sequence[Path]) -> Path | None:
    """The folder that holds all of these, or is the only one; None where one of several is at an address."""
    if len(set(folders)) == 1:
        return folders[0]
    return None if any(map(is_remote, folders)) else Path(os.path.commonpath(folders))


def _inside(line: Line, root: Path) -> Line:
    """The line; with a problem where the run lies outside the folder and a link leads to it."""
    if line.path.resolve().is_relative_to(root.resolve()):
        return line
    return replace(line, problem=f"a link leads out of {root}: name the run itself, trace view {line.path.resolve()}")


def version(path: Path) -> str:
    """A text that changes when samples or scores are added to a run, or something in it is repaired."""
    digest = sha256(read_status(path).tobytes())
    for folder in (path / "units", path / "scores"):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            about = file.stat()
            digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
