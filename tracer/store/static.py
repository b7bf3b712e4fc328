"""What never changes in a store: metadata, coordinates and masks, compared with the checksums made at its creation.

All of it is there twice, so that what is lost can be restored from a copy whose checksum is the right one: coordinates
in every group, metadata of arrays in those of the root, and the rest in `units/copies/`.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata

from tracer.store.durable import replacing
from tracer.store.find import root_attributes
from tracer.store.seals import Fault, Seal, difference, inside, read_static, seal, static_file, write_static
from tracer.store.shards import open_store, schema_at, shards_of, undecodable, unit_arrays

SINCE = "checksums"
"""The root attribute of stores that have checksums; older ones have nothing to compare with."""


def damaged_static(path: Path) -> list[Fault]:
    """What of a store's metadata, coordinates and masks is not as it was written; empty for older stores.

    Raises OSError where the disk refuses.
    """
    schema = schema_at(path)
    seals = read_static(path)
    if seals is None:
        if not has_checksums(path):
            return []
        name = static_file(path).relative_to(path)
        return [Fault(str(name), "is missing or unreadable: metadata, coordinates and masks cannot be checked")]
    faults = []
    for key, expected in seals.items():
        if what := difference(path / schema.folder / key, expected, contents=True):
            faults.append(Fault(key, what))
    return faults


def has_checksums(path: Path) -> bool:
    """Whether a store was made with checksums."""
    return SINCE in root_attributes(path, schema_at(path))


def restore_static(path: Path) -> list[str]:
    """Restore lost or damaged metadata and coordinates from copies with the right checksum; says what was done.

    A lost list of checksums is made again where metadata and coordinates agree among the groups and every mask decodes.
    Call it under the lock of the claims.
    """
    schema = schema_at(path)
    data, seals, done = path / schema.folder, read_static(path), []
    if seals is None:
        if not has_checksums(path) or not (keys := _consistent(path)):
            return []
        write_static(path, schema.folder, keys)
        keep_copies(path)
        return ["the checksums of metadata, coordinates and masks as they are now, which agree among all groups"]
    bad = {key: expected for key, expected in seals.items() if difference(data / key, expected, contents=True)}
    for key, expected in bad.items():
        content = _copy(path, data, key, expected, [other for other in seals if seals[other] == expected])
        if content is not None and inside(data, data / key):
            (data / key).parent.mkdir(parents=True, exist_ok=True)
            with replacing(data / key) as file:
                file.write_bytes(content)
            done.append(f"{key}, from a copy with the checksum it was written with")
    return done


def keep_copies(path: Path) -> None:
    """Copy what a new store has only once: metadata of the root and the groups, and masks."""
    schema = schema_at(path)
    data, seals = path / schema.folder, read_static(path) or {}
    members = open_store(path, "r").members(max_depth=None)
    arrays = {f"{name}/zarr.json" for name, member in members if isinstance(member, zarr.Array)}
    counted = Counter(seals.values())
    for key, sealed in seals.items():
        if counted[sealed] == 1 and key not in arrays:
            copy = _kept(path, key)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / key, copy)


def _kept(path: Path, key: str) -> Path:
    return path / "units" / "copies" / key


def _copy(path: Path, data: Path, key: str, expected: Seal, twins: list[str]) -> bytes | None:
    """What a file was, from any copy with its seal, or for an array's metadata from what the root says."""
    for file in (_kept(path, key), *(data / twin for twin in twins)):
        if not difference(file, expected, contents=True):
            return file.read_bytes()
    try:
        gathered = json.loads((data / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
        metadata = ArrayV3Metadata.from_dict(gathered[key.removesuffix("/zarr.json")])
        content = metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
    except (FileNotFoundError, IsADirectoryError, KeyError, TypeError, ValueError):  # no array, or no root
        return None
    return content if seal(content) == expected else None


def _consistent(path: Path) -> list[str]:
    """The keys of all that never changes, if all is there, decodes and agrees among the groups; else none."""
    schema = schema_at(path)
    root, data = open_store(path, "r"), path / schema.folder
    written, keys = unit_arrays(root, schema), ["zarr.json"]
    seen: dict[str, list[bytes]] = {}
    for name, member in root.members(max_depth=None):
        own = [f"{name}/zarr.json"]
        if isinstance(member, zarr.Array) and name not in (*written, "status"):
            chunks = list(shards_of(member, "", slice(0)))
            if any(not (data / key).is_file() or undecodable(member, region) for key, region in chunks):
                return []
            own += [key for key, _ in chunks]
            copy = [(data / key).read_bytes() for key in own]
            if seen.setdefault(member.basename, copy) != copy:
                return []
        keys += own
    return keys
