"""Reading: open a run lazily with what is incomplete masked, or the complete cells of a sweep.

A store is plain Zarr v3 and opens with xarray too; what is added here is the mask by status, dask chunks that equal
the shards (any other choice is tens of times slower), a check that committed shards are whole, the scores beside a run,
and what runs of version 1 lack.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import xarray as xr
import zarr

from tracer.store.find import locate
from tracer.store.schema import FAILED_STEP, STATUS_COMPLETE, STATUS_MISSING, SWEEP
from tracer.store.scores import read_scores
from tracer.store.shards import (
    damaged_shards,
    data_folder,
    dims,
    open_store,
    read_status,
    shard_shape,
    status_array,
    unit_parts,
)
from tracer.store.upgrade import upgraded


def open_run(path: str | Path | None = None) -> xr.DataTree:
    """A run as a lazy DataTree with dask chunks equal to its shards.

    path: a run directory or its trace.zarr; None takes the newest under ./runs. Every sample that is not complete
    reads as the fill value (NaN for floats); `status` says which. Scores of its pictures are groups `/scores/<metric>`.
    A run of version 1 gets the coordinates of version 2 in memory. Raises RunError when there is no such run.
    """
    run = locate(path)
    status = checked_status(run)
    stored, groups = open_store(run.resolve(), "r"), {}
    loaded: dict[Hashable, xr.Variable] = {}  # every group repeats its coordinates; each is read once
    for node in xr.open_datatree(data_folder(run), engine="zarr", chunks=None).subtree:
        data = node.to_dataset(inherit=False)
        for name, coordinate in data.coords.items():
            loaded[name] = loaded[name] if name in loaded else _loaded(coordinate.variable)
        data = data.assign_coords({name: loaded[name] for name in data.coords})
        for name, array in data.data_vars.items():
            path = f"{node.path}/{name}".strip("/")
            shown = status != STATUS_MISSING if path == FAILED_STEP else status == STATUS_COMPLETE
            data[name] = array.copy(data=status if path == "status" else _lazy(cast(zarr.Array, stored[path]), shown))
        groups[node.path] = data
    groups = upgraded(groups)
    for metric, scores in read_scores(run).items():
        groups[f"/scores/{metric}"] = scores.assign_coords(_shared(groups["/"], scores))
    return xr.DataTree.from_dict(groups, name=run.name)


def open_sweep(path: str | Path | None = None) -> xr.Dataset:
    """The complete cells of a sweep, loaded.

    path: its directory; None takes the newest under ./runs. Raises RunError when there is no such sweep.
    """
    sweep = locate(path, schema=SWEEP)
    status = checked_status(sweep)
    data = xr.open_zarr(data_folder(sweep), consolidated=True, chunks=None)
    return data.isel(cell=np.flatnonzero(status == STATUS_COMPLETE)).load()


def checked_status(path: Path) -> np.ndarray:
    """The flags over the status dims; flagged units whose shards are not whole count as missing, with a warning."""
    status = read_status(path)
    for unit, part in enumerate(unit_parts(status_array(open_store(path, "r")))):
        if status[..., part].any() and (bad := damaged_shards(path, unit)):
            status[..., part] = STATUS_MISSING
            text = (
                f"unit {unit} of {path.name} is flagged complete but {bad[0]} is damaged; masked (see `trace finalize`)"
            )
            warnings.warn(text, stacklevel=3)
    return status


def _shared(root: xr.Dataset, scores: xr.Dataset) -> dict[str, xr.DataArray]:
    """The run's coordinates of arms and samples, which the scores do not repeat on the disk."""
    return {
        str(name): coordinate
        for name, coordinate in root.coords.items()
        if name not in scores.coords and set(coordinate.dims) <= set(scores.dims)
    }


def _loaded(coordinate: xr.Variable) -> xr.Variable:
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
    chunks = tuple(min(cut, size) for cut, size in zip(shard_shape(array), array.shape, strict=True))
    return dask.array.from_array(_CompleteOnly(array, spread), chunks=chunks, name=False)
