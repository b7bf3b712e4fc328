"""Finding runs and sweeps on the disk: which directory a path means, the newest one, a list of all.

Reads only the attributes and the flags; opening the data is `tracer.store.reader`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.store.durable import read_json
from tracer.store.places import expanded
from tracer.store.schema import RUN, SCHEMAS, STATUS_MISSING, SWEEP, RunError, Schema
from tracer.store.shards import read_status


@dataclass(frozen=True)
class RunInfo:
    """One line of a list of runs; bytes is what the directory takes on disk."""

    name: str
    path: Path
    created: str
    model: str
    arms: tuple[str, ...]
    complete: int
    samples: int
    bytes: int


@dataclass(frozen=True)
class SweepInfo:
    """One line of a list of sweeps; bytes is what the directory takes on disk."""

    name: str
    path: Path
    created: str
    task: str
    model: str
    complete: int
    cells: int
    bytes: int


def locate(path: str | Path | None = None, root: str | Path = "runs", schema: Schema = RUN) -> Path:
    """The directory meant by a path (it, or the data in it), or the newest under `root`; RunError if none."""
    if path is None:
        return _latest(Path(root), schema)
    given = expanded(path)
    directory = given.parent if given.name == schema.folder else given
    root_attributes(directory, schema)
    return directory


def latest_run(root: str | Path = "runs") -> Path:
    """The run directory made last under `root`, complete or not; RunError when there is none."""
    return _latest(Path(root), RUN)


def latest_sweep(root: str | Path = "runs") -> Path:
    """The sweep directory made last under `root`, complete or not; RunError when there is none."""
    return _latest(Path(root), SWEEP)


def list_runs(root: str | Path = "runs") -> list[RunInfo]:
    """The runs in a directory, oldest first; an empty list when there are none."""
    runs = []
    for run, attributes, config, complete, length in _listed(Path(root), RUN):
        arms = tuple(str(arm) for arm in attributes["arms"])
        about = attributes["created_at"], str(config.get("model", "")), arms
        runs.append(RunInfo(run.name, run, *about, complete, length, _bytes(run)))
    return runs


def list_sweeps(root: str | Path = "runs") -> list[SweepInfo]:
    """The sweeps in a directory, oldest first; an empty list when there are none."""
    sweeps = []
    for sweep, attributes, config, complete, length in _listed(Path(root), SWEEP):
        about = attributes["created_at"], str(config.get("task", "")), str(config.get("model", ""))
        sweeps.append(SweepInfo(sweep.name, sweep, *about, complete, length, _bytes(sweep)))
    return sweeps


def root_attributes(directory: Path, schema: Schema = RUN) -> dict[str, Any]:
    """Attributes of a store, read without opening it; `config` and `provenance` are JSON strings in them."""
    attributes = _attributes(directory, schema)
    if attributes.get("schema") != schema.name:
        for other in SCHEMAS:
            if _attributes(directory, other).get("schema") == other.name:
                raise RunError(f"{directory} is a {other.noun}, not a {schema.noun}: tracer.open_{other.noun} opens it")
        hint = "`trace runs` lists the runs there are" if schema is RUN else schema.remedy
        raise RunError(f"{directory} is not a {schema.noun} (it holds no {schema.folder} of ours); {hint}")
    if attributes["schema_version"] > schema.version:
        raise RunError(
            f"{directory} was made by a newer version (schema {attributes['schema_version']}); update denoise-trace"
        )
    return attributes


def _latest(root: Path, schema: Schema) -> Path:
    directories = _directories(root, schema)
    if not directories:
        raise RunError(f"no {schema.noun} under {root}/; {schema.remedy}, or name its path")
    return max(directories, key=lambda directory: _created(directory, schema))


def _listed(root: Path, schema: Schema) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any], int, int]]:
    """Directory, attributes, configuration, complete and all of the unit dimension; oldest first."""
    for directory in sorted(_directories(root, schema), key=lambda directory: _created(directory, schema)):
        attributes, status = root_attributes(directory, schema), read_status(directory)
        complete = (status != STATUS_MISSING).reshape(-1, status.shape[-1]).all(axis=0)
        yield directory, attributes, json.loads(attributes["config"]), int(complete.sum()), len(complete)


def _bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _directories(root: Path, schema: Schema) -> list[Path]:
    directories = [file.parent.parent for file in root.glob(f"*/{schema.folder}/zarr.json")]
    return [d for d in directories if ".creating-" not in d.name and _readable(_attributes(d, schema), schema)]


def _readable(attributes: dict[str, Any], schema: Schema) -> bool:
    return attributes.get("schema") == schema.name and attributes["schema_version"] <= schema.version


def _attributes(directory: Path, schema: Schema) -> dict[str, Any]:
    metadata = read_json(directory / schema.folder / "zarr.json")
    return metadata.get("attributes", {}) if isinstance(metadata, dict) else {}


def _created(directory: Path, schema: Schema) -> tuple[str, float]:
    return _attributes(directory, schema).get("created_at", ""), directory.stat().st_mtime
