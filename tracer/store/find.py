"""Finding runs and sweeps on the disk: which directory a path means, the newest one, a list of all.

Reads only the attributes and the flags; opening the data is `tracer.store.reader`. A folder that says it is a store of
ours and cannot be read is listed with the reason, and hides no other.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tracer.store.places import not_a_store
from tracer.store.remote import place
from tracer.store.schema import RUN, SCHEMAS, STATUS_MISSING, SWEEP, RunError, Schema
from tracer.store.seals import config_hash
from tracer.store.shards import read_status


@dataclass(frozen=True)
class RunInfo:
    """One line of a list of runs; bytes is what the directory takes on disk.

    problem: why it cannot be read; then what is not known is empty or 0.
    """

    name: str
    path: Path
    created: str
    model: str
    arms: tuple[str, ...]
    complete: int
    samples: int
    bytes: int
    problem: str = ""


@dataclass(frozen=True)
class SweepInfo:
    """One line of a list of sweeps; bytes is what the directory takes on disk.

    problem: why it cannot be read; then what is not known is empty or 0.
    """

    name: str
    path: Path
    created: str
    task: str
    model: str
    complete: int
    cells: int
    bytes: int
    problem: str = ""


def locate(path: str | Path | None = None, root: str | Path = "runs", schema: Schema = RUN) -> Path:
    """The directory meant by a path (it, or the data in it), or the newest under `root`; RunError if none."""
    if path is None:
        return _latest(place(root, afresh=True), schema)
    given = place(path, afresh=True)
    directory = given.parent if given.name == schema.folder else given
    root_attributes(directory, schema)
    return directory


def latest_run(root: str | Path = "runs") -> Path:
    """The run directory made last under `root`, complete or not; RunError when there is none."""
    return _latest(place(root, afresh=True), RUN)


def latest_sweep(root: str | Path = "runs") -> Path:
    """The sweep directory made last under `root`, complete or not; RunError when there is none."""
    return _latest(place(root, afresh=True), SWEEP)


def list_runs(root: str | Path = "runs") -> list[RunInfo]:
    """The runs in a directory, oldest first, then those that cannot be read; an empty list when there are none."""
    runs = []
    for run, read in _listed(place(root, afresh=True), RUN):
        if isinstance(read, str):
            runs.append(RunInfo(run.name, run, "", "", (), 0, 0, _bytes(run), read))
            continue
        about = read.attributes["created_at"], str(read.config.get("model", "")), tuple(read.attributes["arms"])
        runs.append(RunInfo(run.name, run, *about, read.complete, read.length, _bytes(run)))
    return runs


def list_sweeps(root: str | Path = "runs") -> list[SweepInfo]:
    """The sweeps in a directory, oldest first, then those that cannot be read; an empty list when there are none."""
    sweeps = []
    for sweep, read in _listed(place(root, afresh=True), SWEEP):
        if isinstance(read, str):
            sweeps.append(SweepInfo(sweep.name, sweep, "", "", "", 0, 0, _bytes(sweep), read))
            continue
        about = read.attributes["created_at"], str(read.config.get("task", "")), str(read.config.get("model", ""))
        sweeps.append(SweepInfo(sweep.name, sweep, *about, read.complete, read.length, _bytes(sweep)))
    return sweeps


def root_attributes(directory: Path, schema: Schema = RUN) -> dict[str, Any]:
    """Attributes of a store, read without opening it; `config` and `provenance` are JSON strings in them.

    Raises RunError where there is no such store, and where its metadata or its configuration is not what it was made
    with.
    """
    attributes = _attributes(directory, schema)
    if attributes.get("schema") != schema.name:
        for other in SCHEMAS:
            if _attributes(directory, other).get("schema") == other.name:
                raise RunError(f"{directory} is a {other.noun}, not a {schema.noun}: tracer.open_{other.noun} opens it")
        if (directory / schema.folder).is_dir() and _stored_attributes(directory, schema) is None:
            raise RunError(
                f"{directory} cannot be read: {schema.folder}/zarr.json is missing or damaged; "
                f"`trace verify {directory}` says more"
            )
        raise not_a_store(directory, schema)
    if problem := attributes_problem(attributes, schema):
        raise RunError(f"{directory} cannot be read: {problem}")
    if attributes["schema_version"] > schema.version:
        raise RunError(
            f"{directory} was made by a newer version (schema {attributes['schema_version']}); update denoise-trace"
        )
    return attributes


def attributes_problem(attributes: dict[str, Any], schema: Schema) -> str:
    """What is wrong with the attributes of a store, "" when nothing is."""
    if not isinstance(attributes.get("schema_version"), int):
        return f"its schema_version is {attributes.get('schema_version')!r}, not a whole number"
    arms = attributes.get("arms")
    if "arm" in schema.status_dims and not (isinstance(arms, list) and all(isinstance(arm, str) for arm in arms)):
        return "its attribute `arms` is no list of specs"
    try:
        config = json.loads(attributes["config"])
        if not isinstance(config, dict):
            return "its configuration is no JSON object"
        if config_hash(config) != attributes.get("config_hash"):
            return "its configuration is not the one it was made with (config and config_hash differ)"
    except (KeyError, TypeError, ValueError, RecursionError):
        return "its configuration is missing or no JSON"
    return ""


def _latest(root: Path, schema: Schema) -> Path:
    """The newest that can be read; newer ones that cannot be are named in a warning."""
    directories = _directories(root, schema)
    long_ago = datetime.min.replace(tzinfo=UTC)
    newest = sorted(directories, key=lambda d: (_created(d, schema) or long_ago, d.stat().st_mtime), reverse=True)
    for directory in newest:
        try:
            _read(directory, schema)
        except RunError as error:
            warnings.warn(f"{directory} is passed over: {error}", stacklevel=4)
        else:
            return directory
    raise RunError(f"no {schema.noun} under {root}/; {schema.remedy}, or name its path")


@dataclass(frozen=True)
class _Read:
    """What a list says of a store that can be read; complete, length: along the unit dimension."""

    attributes: dict[str, Any]
    config: dict[str, Any]
    complete: int
    length: int


def _listed(root: Path, schema: Schema) -> Iterator[tuple[Path, _Read | str]]:
    """Every store, oldest first, then those that cannot be read, with the reason."""
    readable, broken = [], []
    for directory in _directories(root, schema):
        try:
            read, time = _read(directory, schema), _created(directory, schema)
            if time is None:
                raise RunError("its attribute `created_at` is no time in the past")
            readable.append((time, directory.stat().st_mtime, directory, read))
        except Exception as error:  # whatever is wrong with one store, the others are listed
            broken.append((directory, f"{error}" or type(error).__name__))
    yield from ((directory, read) for _, _, directory, read in sorted(readable, key=lambda each: each[:2]))
    yield from sorted(broken)


def _read(directory: Path, schema: Schema) -> _Read:
    attributes, status = root_attributes(directory, schema), read_status(directory)
    complete = (status != STATUS_MISSING).reshape(-1, status.shape[-1]).all(axis=0)
    return _Read(attributes, json.loads(attributes["config"]), int(complete.sum()), len(complete))


def _bytes(directory: Path) -> int:
    return sum(file.lstat().st_size for file in directory.rglob("*") if not file.is_dir())


def _directories(root: Path, schema: Schema) -> list[Path]:
    """Folders whose data say that they are of this schema, or cannot say anything."""
    directories = [folder.parent for folder in root.glob(f"*/{schema.folder}") if folder.is_dir()]
    return [d for d in directories if ".creating-" not in d.name and _ours(d, schema)]


def _ours(directory: Path, schema: Schema) -> bool:
    attributes = _stored_attributes(directory, schema)
    if attributes is None:
        return True
    version = attributes.get("schema_version")
    return attributes.get("schema") == schema.name and not (isinstance(version, int) and version > schema.version)


def _attributes(directory: Path, schema: Schema) -> dict[str, Any]:
    """What the root's metadata say; nothing where they are missing or damaged."""
    return _stored_attributes(directory, schema) or {}


def _stored_attributes(directory: Path, schema: Schema) -> dict[str, Any] | None:
    """The attributes of the root, None where its metadata are missing, no JSON, or of another form."""
    try:
        metadata = json.loads((directory / schema.folder / "zarr.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    return attributes if isinstance(attributes, dict) else None


def _created(directory: Path, schema: Schema) -> datetime | None:
    """When a store says it was made; None where that is no time, or one that is still to come."""
    try:
        time = datetime.fromisoformat(_attributes(directory, schema)["created_at"])
    except (KeyError, TypeError, ValueError):
        return None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time if time < datetime.now(UTC) + timedelta(days=1) else None
