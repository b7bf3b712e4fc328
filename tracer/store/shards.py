"""The shards of a store on the disk: which files hold which unit, whether they are whole, how a unit is taken back.

What may be trusted is decided here: the flags, and the seals of the shards, made when their unit was committed. No
values are written; that is `tracer.store.writer`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, cast

import numpy as np
import zarr
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore

from tracer.store.durable import Disk, opened_disk, sync_filesystem
from tracer.store.places import not_a_store
from tracer.store.remote import zarr_store
from tracer.store.schema import SCHEMAS, STATUS_MISSING, RunError, Schema
from tracer.store.seals import Fault, difference, digits, file_size, manifest_file, read_manifest

_MOST_FLAGS = 1 << 28
_MOST_SHARDS = 1 << 20


def schema_at(path: Path) -> Schema:
    """Which kind of store a directory is, by the folder in it; RunError when there is none."""
    for schema in SCHEMAS:
        if (path / schema.folder).is_dir():
            return schema
    raise not_a_store(path)


def data_folder(path: Path) -> Path:
    """Where the Zarr data of a store directory lie; RunError when there are none."""
    return path / schema_at(path).folder


def open_store(path: Path, mode: Literal["r", "r+"], kind: type[LocalStore] = LocalStore) -> zarr.Group:
    """The data of a store directory; RunError when there are none, or when they are not as ours are."""
    schema = schema_at(path)
    try:
        root = zarr.open_group(zarr_store(path / schema.folder, mode, kind), mode=mode)
        _check_flags(path, root, schema)
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:  # of damaged metadata
        raise RunError(f"{path} cannot be opened ({_first_line(error)}); `trace verify {path}` says more") from error
    return root


def _check_flags(path: Path, root: zarr.Group, schema: Schema) -> None:
    """Raise RunError for flags of another form or size than any store of ours has."""
    status = root.get("status")
    if not isinstance(status, zarr.Array) or dims(status) != schema.status_dims or status.dtype != np.int8:
        raise RunError(f"{path} has no flags as a {schema.noun} has them (status over {', '.join(schema.status_dims)})")
    if not 0 < math.prod(status.shape) <= _MOST_FLAGS or status.chunks[:-1] != status.shape[:-1]:
        raise RunError(f"{path} declares flags of shape {status.shape}: no {schema.noun} of ours has that")


def check_size(path: Path, array: zarr.Array) -> None:
    """Raise RunError for an array that declares more shards than any store of ours has."""
    pieces = (-(-size // max(cut, 1)) for size, cut in zip(array.shape, shard_shape(array), strict=True))
    if math.prod(pieces) > _MOST_SHARDS:
        raise RunError(f"{path} declares {array.path} of shape {array.shape}: no store of ours has that")


def refuse_links(path: Path, root: zarr.Group) -> None:
    """Raise RunError where a link stands for one of the folders of a store: it would be followed out of it."""
    schema = schema_at(path)
    own = ["claims", "claims/lock", "claims/verifying", "units", "launches", "scores", "damaged", schema.folder]
    for name in [*own, *(f"{schema.folder}/{member}" for member, _ in root.members(max_depth=None))]:
        if (path / name).is_symlink():
            raise RunError(f"{path / name} is a link, which is not followed: put there the folder that it names")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_status(path: Path) -> np.ndarray:
    """Flags over the status dims, unit by unit; a chunk that holds no flags counts as missing.

    Raises OSError where the disk refuses: that says nothing about the flags.
    """
    array = status_array(open_store(path, "r"))
    status = np.full(array.shape, STATUS_MISSING, np.int8)
    for part in unit_parts(array):
        status[..., part] = read_flags(array, part)
    return status


def read_flags(array: zarr.Array, part: slice) -> np.ndarray:
    """The flags of one unit; all missing where the chunk is damaged."""
    try:
        return np.asarray(array[..., part])
    except (OSError, MemoryError):
        raise
    except Exception:  # whatever a damaged chunk raises, it proves nothing complete
        return np.full((*array.shape[:-1], part.stop - part.start), STATUS_MISSING, np.int8)


def unit_parts(status: zarr.Array) -> list[slice]:
    """The part of the unit dimension that each unit has; the last may be smaller than the rest."""
    length, size = status.shape[-1], status.chunks[-1]
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def damaged_shards(path: Path, unit: int, flags: np.ndarray | None = None, *, contents: bool = False) -> list[Fault]:
    """What of a committed unit is not as it was committed: its list of shards, its flags where given, its shards.

    Sizes are compared, and with `contents` the checksums too. A unit without a readable list is damaged: nothing says
    which shards it has. Raises OSError where the disk refuses.
    """
    manifest = read_manifest(path, unit)
    if manifest is None:
        return [
            Fault(
                f"units/{manifest_file(path, unit).name}", "is missing or unreadable, so nothing vouches for its unit"
            )
        ]
    faults = []
    if flags is not None and manifest.flags not in (None, digits(flags)):
        faults.append(Fault(flag_key(schema_at(path), unit), "holds other flags than those committed"))
    data = data_folder(path)
    for key, expected in manifest.shards.items():
        if what := difference(data / key, expected, contents):
            faults.append(Fault(key, what))
    return faults


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


def undecodable(array: zarr.Array, region: tuple[slice, ...]) -> str:
    """Why a shard cannot be decoded, "" where it can. Raises OSError and MemoryError, which say nothing about it."""
    try:
        array[region]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a codec may raise anything on damaged bytes
        return f"cannot be decoded ({error})"
    return ""


def clear_unit(path: Path, arrays: Iterable[zarr.Array], unit: int, part: slice, disk: Disk | None = None) -> None:
    """Make a unit missing: its flag first, durably; then its manifest and its shards.

    disk: the file system, where it is held open.
    """
    unflag(path, unit, disk)
    schema = schema_at(path)
    data = path / schema.folder
    manifest_file(path, unit).unlink(missing_ok=True)
    for array in arrays:
        for key, _ in shards_of(array, schema.unit_dim, part):
            _remove(data / key)


def remove_partials(path: Path, arrays: Iterable[zarr.Array], part: slice) -> None:
    """Remove the partial files that a killed worker left in a unit. Lists every folder of the store's arrays."""
    schema = schema_at(path)
    data = path / schema.folder
    for array in arrays:
        if dims(array)[-1] == schema.unit_dim:  # zarr puts a random name in place of the last index:
            continue  # whose unit they are of cannot be told, so `sweep` takes them
        stems = {(data / key).with_suffix("").name + "." for key, _ in shards_of(array, schema.unit_dim, part)}
        for partial in (data / array.path).glob("*.partial"):
            if partial.name.startswith(tuple(stems)):
                partial.unlink(missing_ok=True)


def unflag(path: Path, unit: int, disk: Disk | None = None) -> None:
    """Take the flag from a unit, durably; no chunk means missing."""
    schema = schema_at(path)
    data = path / schema.folder
    if file_size(flag := data / flag_key(schema, unit)) is None:
        return
    _remove(flag)
    if disk is not None:
        sync_filesystem(disk)
        return
    with opened_disk(data) as disk:
        sync_filesystem(disk)


def _remove(file: Path) -> None:
    """Delete a file or a link, or a folder that is empty."""
    size = file_size(file)
    if size is not None:
        file.rmdir() if size < 0 and not file.is_symlink() else file.unlink(missing_ok=True)


def flag_key(schema: Schema, unit: int) -> str:
    """Key of the chunk that holds the flags of a unit."""
    return "status/" + ".".join(["c", *["0"] * (len(schema.status_dims) - 1), str(unit)])


def shard_shape(array: zarr.Array) -> tuple[int, ...]:
    """Shape of a shard, or of a chunk where the array has no shards."""
    return tuple(array.shards or array.chunks)


def chunks_in_shard(array: zarr.Array) -> int:
    """Number of chunks in a shard."""
    return math.prod(_grid(array))


def chunks_of(array: zarr.Array, shard: tuple[slice, ...], index: tuple[slice, ...]) -> list[int]:
    """Which chunks of a shard, in C order, hold part of an index; shard: its region."""
    ranges = []
    for own, part, chunk in zip(shard, index, array.chunks, strict=True):
        start, stop = max(own.start, part.start) - own.start, min(own.stop, part.stop) - own.start
        ranges.append(np.arange(start // chunk, -(-stop // chunk)))
    return np.ravel_multi_index(np.ix_(*ranges), _grid(array)).ravel().tolist()


def _grid(array: zarr.Array) -> tuple[int, ...]:
    """Chunks of a shard along every dimension."""
    return tuple(shard // chunk for shard, chunk in zip(shard_shape(array), array.chunks, strict=True))


def dims(array: zarr.Array) -> tuple[str, ...]:
    """Names of the dimensions."""
    return tuple(str(dim) for dim in cast(ArrayV3Metadata, array.metadata).dimension_names or ())
