"""Reading runs: open one lazily with what is incomplete masked, list those there are, check and tidy one.

A store is plain Zarr v3 and opens with `xarray.open_datatree` too; what `open_run` adds is the mask by status, dask
chunks that equal the shards (any other choice is tens of times slower), and a check that committed shards are whole.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tracer.durable import read_json
from tracer.schema import STATUS_COMPLETE, STATUS_MISSING, RunError
from tracer.writer import damaged_shards, read_status


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
    complete = xr.DataArray(status == STATUS_COMPLETE, dims=("arm", "sample"))
    groups = {}
    for node in xr.open_datatree(run / "trace.zarr", engine="zarr", chunks=None).subtree:
        data = node.to_dataset(inherit=False)
        data = data.assign_coords({name: _loaded(coordinate) for name, coordinate in data.coords.items()})
        if "status" in data:
            data["status"] = data["status"].copy(data=status)
        shards = {name: array for name, array in data.data_vars.items() if name != "status"}
        groups[node.path] = data.assign({name: _masked(array, complete) for name, array in shards.items()})
    return xr.DataTree.from_dict(groups, name=run.name)


def locate(path: str | Path | None = None, root: str | Path = "runs") -> Path:
    """The run directory meant by a path (a run or its trace.zarr), or the newest under `root`; RunError if none."""
    if path is None:
        return latest_run(root)
    given = Path(path)
    run = given.parent if given.name == "trace.zarr" else given
    if not (run / "trace.zarr" / "zarr.json").is_file():
        raise RunError(f"{given} is not a run (it holds no trace.zarr); `trace runs` lists the runs there are")
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
    metadata = read_json(run / "trace.zarr" / "zarr.json")
    if metadata is None:
        raise RunError(f"{run} is not a run (no readable trace.zarr/zarr.json); `trace runs` lists the runs there are")
    return metadata["attributes"]


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
    return [p.parent.parent for p in root.glob("*/trace.zarr/zarr.json") if ".creating-" not in p.parent.parent.name]


def _created(run: Path) -> tuple[str, float]:
    attributes = (read_json(run / "trace.zarr" / "zarr.json") or {}).get("attributes", {})
    return attributes.get("created_at", ""), run.stat().st_mtime


def _loaded(coordinate: xr.DataArray) -> xr.DataArray:
    """A coordinate in memory, strings as Python objects, which every writer of tables and netCDF takes."""
    values = coordinate.load()
    return values.astype(object) if values.dtype.kind == "T" else values


def _masked(array: xr.DataArray, complete: xr.DataArray) -> xr.DataArray:
    shards = array.encoding.get("shards") or array.encoding.get("chunks")
    if not shards:
        return array
    encoding = array.encoding
    array = array.chunk({dim: min(cut, array.sizes[dim]) for dim, cut in zip(array.dims, shards, strict=True)})
    if "sample" in array.dims and not bool(complete.all()):
        keep = complete if "arm" in array.dims else complete.isel(arm=0)
        fill = encoding.get("fill_value", np.nan)
        array = array.where(keep.astype(bool), np.asarray(fill, array.dtype).item()).astype(array.dtype)
    array.encoding = encoding
    return array
