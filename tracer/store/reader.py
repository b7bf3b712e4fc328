"""Reading runs: open one lazily with what is incomplete masked, list those there are, check and tidy one.

A store is plain Zarr v3 and opens with `xarray.open_datatree` too; what `open_run` adds is the mask by status, dask
chunks that equal the shards (any other choice is tens of times slower), and a check that committed shards are whole.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import xarray as xr
import zarr

from tracer.store.durable import read_json
from tracer.store.schema import SCHEMA, SCHEMA_VERSION, STATUS_COMPLETE, STATUS_MISSING, RunError
from tracer.store.shards import cuts, damaged_shards, dims, open_store, read_status


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


def open_run(path: str | Path | None = None) -> xr.DataTree:
    """A run as a lazy DataTree with dask chunks equal to its shards.

    path: a run directory or its trace.zarr; None takes the newest under ./runs. Every sample that is not complete
    reads as the fill value (NaN for floats); `status` says which. Raises RunError when there is no such run.
    """
    run = locate(path)
    status = checked_status(run)
    stored, groups = open_store(run.resolve(), "r"), {}
    for node in xr.open_datatree(run / "trace.zarr", engine="zarr", chunks=None).subtree:
        data = node.to_dataset(inherit=False)
        data = data.assign_coords({name: _loaded(coordinate) for name, coordinate in data.coords.items()})
        for name, array in data.data_vars.items():
            path = f"{node.path}/{name}".strip("/")
            data[name] = array.copy(
                data=status if path == "status" else _lazy(cast(zarr.Array, stored[path]), status == STATUS_COMPLETE)
            )
        groups[node.path] = data
    return xr.DataTree.from_dict(groups, name=run.name)


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


def checked_status(run: Path) -> np.ndarray:
    """status [arm, sample]; flagged units whose shards are not whole count as missing, with a warning."""
    status = read_status(run)
    size = int(root_attributes(run)["unit"])
    for unit in range(-(-status.shape[1] // size)):
        part = slice(unit * size, (unit + 1) * size)
        if status[:, part].any() and (bad := damaged_shards(run, unit)):
            status[:, part] = STATUS_MISSING
            text = (
                f"unit {unit} of {run.name} is flagged complete but {bad[0]} is damaged; masked (see `trace finalize`)"
            )
            warnings.warn(text, stacklevel=3)
    return status


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
    found = []
    for run in sorted(_directories(Path(root)), key=_created):
        attributes, status = root_attributes(run), read_status(run)
        config = json.loads(attributes["config"])
        size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        complete = int((status != STATUS_MISSING).all(axis=0).sum())
        arms = tuple(str(arm) for arm in attributes["arms"])
        model = str(config.get("model", ""))
        found.append(RunInfo(run.name, run, attributes["created_at"], model, arms, complete, status.shape[1], size))
    return found


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


def _loaded(coordinate: xr.DataArray) -> xr.DataArray:
    """A coordinate in memory, strings as Python objects, which every writer of tables and netCDF takes."""
    values = coordinate.load()
    return values.astype(object) if values.dtype.kind == "T" else values


@dataclass(frozen=True)
class _CompleteOnly:
    """An array as dask reads it, one shard at a time: samples that are not complete are filled in and not even read.

    complete: bool with the dims of the array, of size 1 where it does not vary.
    """

    array: zarr.Array
    complete: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        index = (*index, *[slice(None)] * (self.ndim - len(index)))
        sizes = self.complete.shape
        small = tuple(
            part if n > 1 else (slice(None) if isinstance(part, slice) else 0)
            for part, n in zip(index, sizes, strict=True)
        )
        complete = self.complete[small]
        if complete.all():
            return np.asarray(self.array[index])
        if complete.any():
            return np.where(complete, self.array[index], self.dtype.type(self.array.fill_value))
        lengths = [range(n)[part] for n, part in zip(self.shape, index, strict=True)]
        shape = tuple(len(length) for length in lengths if isinstance(length, range))
        return np.full(shape, self.array.fill_value, self.dtype)


def _lazy(array: zarr.Array, complete: np.ndarray) -> dask.array.Array:
    """The array with one dask chunk per shard, incomplete samples masked; complete: bool [arm, sample]."""
    names = dims(array)
    complete = complete if "arm" in names else complete[:1]
    complete = complete if "sample" in names else np.ones((1, 1), bool)
    extent = dict(zip(("arm", "sample"), complete.shape, strict=True))
    spread = complete.reshape([extent.get(name, 1) for name in names])
    chunks = tuple(min(cut, size) for cut, size in zip(cuts(array), array.shape, strict=True))
    return dask.array.from_array(_CompleteOnly(array, spread), chunks=chunks, name=False)
