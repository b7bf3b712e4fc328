"""The shards of a store on the disk: which files hold which unit, whether they are whole, how a unit is taken back.

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

from tracer.store.durable import read_json, sync_filesystem
from tracer.store.remote import zarr_store
from tracer.store.schema import RUN, SCHEMAS, STATUS_MISSING, RunError, Schema


def schema_at(path: Path) -> Schema:
    """Which kind of store a directory is, by the folder in it; RunError when there is none."""
    for schema in SCHEMAS:
        if (path / schema.folder / "zarr.json").is_file():
            return schema
    raise RunError(f"{path} is not a run (no {RUN.folder} in it); `trace runs` lists the runs there are")


def data_folder(path: Path) -> Path:
    """Where the Zarr data of a store directory lie; RunError when there are none."""
    return path / schema_at(path).folder


def open_store(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """The data of a store directory; RunError when there are none."""
    return zarr.open_group(zarr_store(data_folder(path), mode), mode=mode)


def read_status(path: Path) -> np.ndarray:
    """Flags over the status dims, unit by unit; a chunk that cannot be read counts as missing."""
    array = status_array(open_store(path, "r"))
    status = np.full(array.shape, STATUS_MISSING, np.int8)
    for part in unit_parts(array):
        with contextlib.suppress(Exception):  # whatever a damaged chunk raises, it proves nothing complete
            status[..., part] = array[..., part]
    return status


def unit_parts(status: zarr.Array) -> list[slice]:
    """The part of the unit dimension that each unit has; the last may be smaller than the rest."""
    length, size = status.shape[-1], status.chunks[-1]
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def damaged_shards(path: Path, unit: int) -> list[str] | None:
    """Shards of a committed unit that are gone or have another size than when committed; None without a manifest."""
    manifest = read_json(manifest_file(path, unit))
    if manifest is None:
        return None
    data = data_folder(path)
    return [key for key, size in manifest["shards"].items() if file_size(data / key) != size]


def unit_arrays(root: zarr.Group, schema: Schema) -> dict[str, zarr.Array]:
    """The arrays that are written unit by unit, by path: those cut into shards along the unit dimension."""
    members = root.members(max_depth=None)
    return {p: a for p, a in members if isinstance(a, zarr.Array) and a.shards and schema.unit_dim in dims(a)}


def status_array(root: zarr.Group) -> zarr.Array:
    """The array of flags."""
    return cast(zarr.Array, root["status"])


def shards_of(array: zarr.Array, unit_dim: str, part: slice) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Key and region of every shard of an array that holds this part of the unit dimension."""
    blocks = []
    for dim, size, cut in zip(dims(array), array.shape, shard_shape(array), strict=True):
        start, stop = (part.start, part.stop) if dim == unit_dim else (0, size)
        blocks.append([(n, slice(n * cut, min(n * cut + cut, size))) for n in range(start // cut, -(-stop // cut))])
    for block in itertools.product(*blocks):
        yield f"{array.path}/c.{'.'.join(str(n) for n, _ in block)}", tuple(region for _, region in block)


def clear_unit(path: Path, arrays: Iterable[zarr.Array], unit: int, part: slice) -> None:
    """Make a unit missing: its flag first, durably; then its manifest and its shards."""
    schema = schema_at(path)
    data = path / schema.folder
    flag = data / "status" / ".".join(["c", *["0"] * (len(schema.status_dims) - 1), str(unit)])
    if flag.exists():  # fill is "missing", so no chunk means status 0
        flag.unlink()
        sync_filesystem(data)
    manifest_file(path, unit).unlink(missing_ok=True)
    for array in arrays:
        for key, _ in shards_of(array, schema.unit_dim, part):
            (data / key).unlink(missing_ok=True)


def remove_partials(path: Path, arrays: Iterable[zarr.Array], part: slice) -> None:
    """Remove the partial files that a killed worker left in a unit. Lists every folder of the store's arrays."""
    schema = schema_at(path)
    data = path / schema.folder
    for array in arrays:
        if dims(array)[-1] == schema.unit_dim:  # zarr puts a random name in place of the last index:
            continue  # whose unit they are of cannot be told, so `finalize` sweeps them
        stems = {(data / key).with_suffix("").name + "." for key, _ in shards_of(array, schema.unit_dim, part)}
        for partial in (data / array.path).glob("*.partial"):
            if partial.name.startswith(tuple(stems)):
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


def shard_shape(array: zarr.Array) -> tuple[int, ...]:
    """Shape of a shard, or of a chunk where the array has no shards."""
    return tuple(array.shards or array.chunks)


def dims(array: zarr.Array) -> tuple[str, ...]:
    """Names of the dimensions."""
    return tuple(str(dim) for dim in cast(ArrayV3Metadata, array.metadata).dimension_names or ())
