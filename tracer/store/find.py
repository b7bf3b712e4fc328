"""Finding stores on the disk: which directory a path means, the newest one, a list of all.

Reads only the attributes and the flags; opening the data is `tracer.store.reader`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.store.durable import read_json
from tracer.store.schema import SCHEMA, SCHEMA_VERSION, STATUS_MISSING, RunError
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


def locate(path: str | Path | None = None, root: str | Path = "runs") -> Path:
    """The run directory meant by a path (a run or its trace.zarr), or the newest under `root`; RunError if none."""
    if path is None:
        return latest_run(root)
    given = Path(path)
    run = given.parent if given.name == "trace.zarr" else given
    root_attributes(run)
    return run


def latest_run(root: str | Path = "runs") -> Path:
    """The run directory made last under `root`, complete or not; RunError when there is none."""
    runs = _directories(Path(root))
    if not runs:
        raise RunError(f"no run under {root}/; make one with `trace run --model dit --mask R4S32`, or name its path")
    return max(runs, key=_created)


def root_attributes(run: Path) -> dict[str, Any]:
    """Attributes of the run, read without opening the store; `config` and `provenance` are JSON strings in them."""
    attributes = _attributes(run)
    if attributes.get("schema") != SCHEMA:
        raise RunError(f"{run} is not a run (it holds no trace.zarr of ours); `trace runs` lists the runs there are")
    if attributes["schema_version"] > SCHEMA_VERSION:
        raise RunError(
            f"{run} was made by a newer version (schema {attributes['schema_version']}); update denoise-trace"
        )
    return attributes


def list_runs(root: str | Path = "runs") -> list[RunInfo]:
    """The runs in a directory, oldest first; an empty list when there are none."""
    runs = []
    for run in sorted(_directories(Path(root)), key=_created):
        attributes, status = root_attributes(run), read_status(run)
        config = json.loads(attributes["config"])
        size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        complete = int((status != STATUS_MISSING).all(axis=0).sum())
        arms = tuple(str(arm) for arm in attributes["arms"])
        model = str(config.get("model", ""))
        runs.append(RunInfo(run.name, run, attributes["created_at"], model, arms, complete, status.shape[1], size))
    return runs


def _directories(root: Path) -> list[Path]:
    runs = [file.parent.parent for file in root.glob("*/trace.zarr/zarr.json")]
    return [run for run in runs if ".creating-" not in run.name and _readable(_attributes(run))]


def _readable(attributes: dict[str, Any]) -> bool:
    return attributes.get("schema") == SCHEMA and attributes["schema_version"] <= SCHEMA_VERSION


def _attributes(run: Path) -> dict[str, Any]:
    metadata = read_json(run / "trace.zarr" / "zarr.json")
    return metadata.get("attributes", {}) if isinstance(metadata, dict) else {}


def _created(run: Path) -> tuple[str, float]:
    return _attributes(run).get("created_at", ""), run.stat().st_mtime
