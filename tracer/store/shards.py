"""The shards of a run on the disk: which files hold which samples, whether they are whole, how a unit is taken back.

What may be trusted is decided here: the flags, and the sizes the shards had when their unit was committed. No values
are written; that is `tracer.store.writer`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, cast

import numpy as np
import zarr
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore

from tracer.store.durable import read_json, sync_filesystem
from tracer.store.schema import STATUS_MISSING, RunError


def open_store(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """The store of a run directory; RunError when there is none."""
    store = path / "trace.zarr"
    if not (store / "zarr.json").is_file():
        raise RunError(f"{path} is not a run (no trace.zarr in it); `trace runs` lists the runs there are")
    return zarr.open_group(LocalStore(store, read_only=mode == "r"), mode=mode)


def read_status(path: Path) -> np.ndarray:
    """status [arm, sample] of a run, chunk by chunk; a chunk that cannot be read counts as missing."""
    array = status_array(open_store(path, "r"))
    status = np.full(array.shape, STATUS_MISSING, np.int8)
    for start in range(0, array.shape[1], array.chunks[1]):
        part = slice(start, start + array.chunks[1])
        with contextlib.suppress(Exception):  # whatever a damaged chunk raises, it proves nothing complete
            status[:, part] = array[:, part]
    return status


def damaged_shards(path: Path, unit: int) -> list[str] | None:
    """Shards of a committed unit that are gone or have another size than when committed; None without a manifest."""
    manifest = read_json(manifest_file(path, unit))
    if manifest is None:
        return None
    store = path / "trace.zarr"
    return [key for key, size in manifest["shards"].items() if file_size(store / key) != size]


def sample_arrays(root: zarr.Group) -> dict[str, zarr.Array]:
    """The arrays that a loop writes, by path: those cut into shards that have a sample axis."""
    members = root.members(max_depth=None)
    return {p: a for p, a in members if isinstance(a, zarr.Array) and a.shards and "sample" in dims(a)}


def status_array(root: zarr.Group) -> zarr.Array:
    """The array of flags [arm, sample]."""
    return cast(zarr.Array, root["status"])


def shards_of(array: zarr.Array, samples: slice) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Key and region of every shard of an array that holds these samples."""
    blocks = []
    for dim, size, cut in zip(dims(array), array.shape, cuts(array), strict=True):
        start, stop = (samples.start, samples.stop) if dim == "sample" else (0, size)
        blocks.append([(n, slice(n * cut, min(n * cut + cut, size))) for n in range(start // cut, -(-stop // cut))])
    for block in itertools.product(*blocks):
        yield f"{array.path}/c.{'.'.join(str(n) for n, _ in block)}", tuple(part for _, part in block)


def clear_unit(path: Path, arrays: Iterable[zarr.Array], unit: int, samples: slice) -> None:
    """Make a unit missing: its flag first, durably; then its manifest, its shards and their partial files."""
    store = path / "trace.zarr"
    flag = store / "status" / f"c.0.{unit}"
    if flag.exists():  # fill is "missing", so no chunk means status 0
        flag.unlink()
        sync_filesystem(store)
    manifest_file(path, unit).unlink(missing_ok=True)
    for array in arrays:
        partials = [file for file in (store / array.path).iterdir() if file.name.endswith(".partial")]
        for key, _ in shards_of(array, samples):
            (store / key).unlink(missing_ok=True)
            stem = (store / key).with_suffix("").name + "."
            for partial in partials:  # zarr puts a random name in place of the last index, never the sample's
                if partial.name.startswith(stem):
                    partial.unlink(missing_ok=True)


def manifest_file(path: Path, unit: int) -> Path:
    """Where the sizes of the shards of a committed unit are kept."""
    return path / "units" / f"{unit:06d}.json"


def file_size(path: Path) -> int | None:
    """Bytes in a file, None when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def cuts(array: zarr.Array) -> tuple[int, ...]:
    """Shape of a shard, or of a chunk where the array has no shards."""
    return tuple(array.shards or array.chunks)


def dims(array: zarr.Array) -> tuple[str, ...]:
    """Names of the dimensions."""
    return tuple(str(dim) for dim in cast(ArrayV3Metadata, array.metadata).dimension_names or ())
