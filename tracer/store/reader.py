"""Reading: open a run lazily with what is incomplete masked, or the complete cells of a sweep.

A store is plain Zarr v3 and opens with xarray too; what is added here is the mask by status, dask chunks that equal
the shards (any other choice is tens of times slower), the scores beside a run, what runs of version 1 lack, and checks:
metadata, coordinates and masks are compared with their checksums on opening, shards with their sizes on opening, and
what is read of them with its checksums. What is not as it was written is masked or raises; it never reads as a value.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import xarray as xr
import zarr

from tracer.store.find import locate, root_attributes
from tracer.store.remote import zarr_store
from tracer.store.schema import FAILED_STEP, RUN, STATUS_COMPLETE, STATUS_MISSING, SWEEP, RunError, Schema
from tracer.store.scores import read_scores
from tracer.store.seals import Seal, difference_of_chunks, read_manifest
from tracer.store.shards import (
    check_size,
    chunks_of,
    damaged_shards,
    data_folder,
    dims,
    open_store,
    read_flags,
    read_status,
    refuse_links,
    shard_shape,
    shards_of,
    status_array,
    unit_arrays,
    unit_parts,
)
from tracer.store.static import damaged_static
from tracer.store.upgrade import upgraded


def open_run(path: str | Path | None = None) -> xr.DataTree:
    """A run as a lazy DataTree with dask chunks equal to its shards.

    path: a run directory or its trace.zarr, here or at an address such as s3://bucket/run; None takes the newest under
    ./runs. Every sample that is not complete
    reads as the fill value (NaN for floats); `status` says which. Scores of its pictures are groups `/scores/<metric>`.
    A run of version 1 gets the coordinates of version 2 in memory. Raises RunError when there is no such run, and when
    its metadata, coordinates or masks are not what was written; reading a shard that is not what was committed raises
    it too.
    """
    run = locate(path)
    check_static(run)
    status = checked_status(run)
    stored, groups = open_store(run.resolve(), "r"), {}
    refuse_links(run, stored)
    shards = _Shards(run.resolve(), RUN, unit_arrays(stored, RUN), unit_parts(status_array(stored)))
    loaded: dict[Hashable, xr.Variable] = {}  # every group repeats its coordinates; each is read once
    try:
        tree = xr.open_datatree(zarr_store(data_folder(run)), engine="zarr", chunks=None)
    except (ValueError, TypeError, KeyError) as error:  # metadata that contradict each other
        raise shards.damaged(f"its metadata do not fit together ({error})") from error
    for node in tree.subtree:
        data = node.to_dataset(inherit=False)
        for name, coordinate in data.coords.items():
            loaded[name] = loaded[name] if name in loaded else _loaded(coordinate.variable)
        data = data.assign_coords({name: loaded[name] for name in data.coords})
        for name, array in data.data_vars.items():
            path = f"{node.path}/{name}".strip("/")
            if path == "status":
                data[name] = array.copy(data=status)
                continue
            held = cast(zarr.Array, stored[path])
            check_size(run, held)
            shown = status != STATUS_MISSING if path == FAILED_STEP else status == STATUS_COMPLETE
            data[name] = array.copy(data=_lazy(held, shown, shards))
        groups[node.path] = data
    groups = upgraded(groups)
    for metric, scores in read_scores(run).items():
        groups[f"/scores/{metric}"] = scores.assign_coords(_shared(groups["/"], scores))
    return xr.DataTree.from_dict(groups, name=run.name)


def open_sweep(path: str | Path | None = None) -> xr.Dataset:
    """The complete cells of a sweep, loaded.

    path: its directory; None takes the newest under ./runs. Raises RunError when there is no such sweep, and when
    something in it is not what was written.
    """
    sweep = locate(path, schema=SWEEP)
    check_static(sweep)
    status = checked_status(sweep, SWEEP, contents=True)
    stored = open_store(sweep, "r")
    refuse_links(sweep, stored)
    for _, array in stored.arrays():
        check_size(sweep, array)
    data = xr.open_zarr(zarr_store(data_folder(sweep)), consolidated=True, chunks=None)
    return data.isel(cell=np.flatnonzero(status == STATUS_COMPLETE)).load()


def check_static(path: Path) -> None:
    """Raise RunError where metadata, coordinates or masks are not what was written when the store was made."""
    if faults := damaged_static(path):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RunError(
            f"{path} is damaged: {faults[0]}{more}; `trace verify {path}` lists everything, `trace repair {path}` puts "
            "right what can be"
        )


def checked_status(path: Path, schema: Schema = RUN, *, contents: bool = False) -> np.ndarray:
    """The flags over the status dims; units that are not as they were committed count as missing, with a warning.

    contents: whether checksums of the shards are compared now, besides their sizes.
    """
    if root_attributes(path, schema)["schema_version"] < schema.writable_from:
        return read_status(path)  # its units were never listed
    array = status_array(open_store(path, "r"))
    status = np.full(array.shape, STATUS_MISSING, np.int8)
    for unit, part in enumerate(unit_parts(array)):
        status[..., part] = flags = read_flags(array, part)
        if flags.any() and (bad := damaged_shards(path, unit, flags, contents=contents)):
            status[..., part] = STATUS_MISSING
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            text = (
                f"unit {unit} of {path.name} ({schema.unit_dim}s {part.start}-{part.stop - 1}) is flagged complete and "
                f"damaged: {bad[0]}{more}; masked. `trace verify {path}` lists everything"
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
class _Shards:
    """The shards of an opened store, whose chunks are compared with their checksums before they are decoded, once.

    arrays: those that are written unit by unit, by path. parts: samples of every unit.
    """

    path: Path
    schema: Schema
    arrays: Mapping[str, zarr.Array]
    parts: list[slice]
    _seals: dict[int, dict[str, Seal] | None] = field(default_factory=dict)
    _checked: dict[str, set[int]] = field(default_factory=dict)

    def check(self, array: zarr.Array, index: tuple[slice, ...]) -> None:
        """Raise RunError when a chunk that holds part of this index is not the one that was committed."""
        if array.path not in self.arrays:
            return
        axis = dims(array).index(self.schema.unit_dim)
        length = self.parts[0].stop
        for unit in range(index[axis].start // length, -(-index[axis].stop // length)):
            for key, region in shards_of(array, self.schema.unit_dim, self.parts[unit]):
                if not all(_overlap(*pair) for pair in zip(region, index, strict=True)):
                    continue
                checked = self._checked.setdefault(key, set())
                if wanted := [chunk for chunk in chunks_of(array, region, index) if chunk not in checked]:
                    self._check(unit, key, wanted)
                    checked.update(wanted)

    def _check(self, unit: int, key: str, wanted: list[int]) -> None:
        if unit not in self._seals:
            self._read(unit)
        if what := self._difference(unit, key, wanted):
            self._read(unit)  # it may have been made again since
            what = self._difference(unit, key, wanted)
        if what:
            raise self.damaged(f"{key} {what}")

    def damaged(self, what: str) -> RunError:
        """The error that says what is wrong and what to type."""
        return RunError(
            f"{self.path.name} is damaged: {what}; `trace verify {self.path}` lists everything, "
            f"`trace repair {self.path}` takes it out so that it can be computed again"
        )

    def _read(self, unit: int) -> None:
        manifest = read_manifest(self.path, unit)
        self._seals[unit] = None if manifest is None else manifest.shards

    def _difference(self, unit: int, key: str, wanted: list[int]) -> str:
        seals, file = self._seals[unit], self.path / self.schema.folder / key
        if seals is None:
            return "has no readable list that vouches for it"
        if key in seals:
            return difference_of_chunks(file, seals[key], wanted)
        return "was not committed" if file.exists() else ""


def _overlap(one: slice, other: slice) -> bool:
    return one.start < other.stop and other.start < one.stop


@dataclass(frozen=True)
class _CompleteOnly:
    """An array as dask reads it, one shard at a time: samples that are not complete are filled in and not even read.

    complete: bool with the dims of the array, of size 1 where it does not vary.
    """

    array: zarr.Array
    complete: np.ndarray
    shards: _Shards

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
            return self._read(index)
        if complete.any():
            return np.where(complete, self._read(index), self.dtype.type(self.array.fill_value))
        lengths = [range(n)[part] for n, part in zip(self.shape, index, strict=True)]
        shape = tuple(len(length) for length in lengths if isinstance(length, range))
        return np.full(shape, self.array.fill_value, self.dtype)

    def _read(self, index: tuple[Any, ...]) -> np.ndarray:
        """The values, after a look at the checksums of the shards they lie in."""
        bounds = (_bounds(part, size) for part, size in zip(index, self.shape, strict=True))
        self.shards.check(self.array, tuple(bounds))
        try:
            return np.asarray(self.array[index])
        except (OSError, MemoryError, IndexError):
            raise
        except Exception as error:  # a codec may raise anything on damaged bytes
            raise self.shards.damaged(f"{self.array.path} cannot be decoded ({error})") from error


def _bounds(part: Any, size: int) -> slice:
    """The smallest block that holds what an index takes along one dimension."""
    taken = np.atleast_1d(np.arange(size)[part])
    return slice(int(taken.min()), int(taken.max()) + 1) if taken.size else slice(0, 0)


def _lazy(array: zarr.Array, complete: np.ndarray, shards: _Shards) -> dask.array.Array:
    """The array with one dask chunk per shard, incomplete samples masked; complete: bool [arm, sample]."""
    names = dims(array)
    complete = complete if "arm" in names else complete[:1]
    complete = complete if "sample" in names else np.ones((1, 1), bool)
    extent = dict(zip(("arm", "sample"), complete.shape, strict=True))
    spread = complete.reshape([extent.get(name, 1) for name in names])
    chunks = tuple(min(cut, size) for cut, size in zip(shard_shape(array), array.shape, strict=True))
    return dask.array.from_array(_CompleteOnly(array, spread, shards), chunks=chunks, name=False)
