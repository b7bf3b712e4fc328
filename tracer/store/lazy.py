"""The arrays of an opened run: lazy, one dask chunk a shard, incomplete samples masked, checked when they are read.

Any smaller dask chunk makes queries over a large run tens of times slower. Opening a run is `tracer.store.reader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr

from tracer.store.schema import RunError, Schema
from tracer.store.seals import Seal, difference_of_chunks, read_manifest
from tracer.store.shards import chunks_of, dims, shard_shape, shards_of


@dataclass(frozen=True)
class Shards:
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
    shards: Shards

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


def lazy(array: zarr.Array, complete: np.ndarray, shards: Shards) -> dask.array.Array:
    """The array with one dask chunk per shard, incomplete samples masked; complete: bool [arm, sample]."""
    names = dims(array)
    complete = complete if "arm" in names else complete[:1]
    complete = complete if "sample" in names else np.ones((1, 1), bool)
    extent = dict(zip(("arm", "sample"), complete.shape, strict=True))
    spread = complete.reshape([extent.get(name, 1) for name in names])
    chunks = tuple(min(cut, size) for cut, size in zip(shard_shape(array), array.shape, strict=True))
    return dask.array.from_array(_CompleteOnly(array, spread, shards), chunks=chunks, name=False)
