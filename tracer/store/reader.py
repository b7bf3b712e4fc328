"""Reading runs: open one lazily with what is incomplete masked.

A store is plain Zarr v3 and opens with `xarray.open_datatree` too; what `open_run` adds is the mask by status, dask
chunks that equal the shards (any other choice is tens of times slower), and a check that committed shards are whole.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import xarray as xr
import zarr

from tracer.store.find import locate, root_attributes
from tracer.store.schema import STATUS_COMPLETE, STATUS_MISSING
from tracer.store.scores import read_scores
from tracer.store.shards import cuts, damaged_shards, dims, open_store, read_status


def open_run(path: str | Path | None = None) -> xr.DataTree:
    """A run as a lazy DataTree with dask chunks equal to its shards.

    path: a run directory or its trace.zarr; None takes the newest under ./runs. Every sample that is not complete
    reads as the fill value (NaN for floats); `status` says which. Scores of its pictures are groups `/scores/<metric>`.
    Raises RunError when there is no such run.
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
    for metric, scores in read_scores(run).items():
        alike = {
            n: c for n, c in groups["/"].coords.items() if n not in scores.coords and set(c.dims) <= set(scores.dims)
        }
        groups[f"/scores/{metric}"] = scores.assign_coords(alike)
    return xr.DataTree.from_dict(groups, name=run.name)


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
