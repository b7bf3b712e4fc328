"""Checksums of what a store must contain, taken when it was written: of shards, of metadata, of the configuration.

A seal is a size and a SHA-256. The CRC-32C of a whole shard would be ten times faster and useless: every chunk and
every index of a shard ends with its own, and the CRC-32C of such a file depends on its length alone, so that one shard
copied over another of equal size would pass. The CRC-32Cs that the chunks end with do not; a seal lists them too, so
that a reader compares what it reads of a shard and no more. Sealing costs 0.8 ms a MB in the thread that writes, beside
the loop that computes. Nothing here knows what a unit contains.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from tracer.store.durable import write_json
from tracer.store.remote import is_remote

_BLOCK = 1 << 20
_PLACE = np.dtype(("<u8", 2))  # of a chunk in the index at the end of a shard: where it begins, how long it is
_CHECKSUM = np.dtype("<u4")  # CRC-32C: at the end of every chunk and of the index
_NO_CHUNK = np.iinfo(np.uint64).max  # in place of both numbers
OTHER = "has other contents than when it was written"


class Seal(NamedTuple):
    """What a file was when it was written: its bytes, and their SHA-256 (None in stores older than checksums).

    chunks: of a shard of several chunks the CRC-32C of each, in C order, as base64; None for others.
    """

    size: int
    sha256: str | None
    chunks: str | None = None


class Fault(NamedTuple):
    """A file of a store that is not what was written. key: relative to the data, or to the store's directory."""

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key} {self.what}"


class Manifest(NamedTuple):
    """What a unit was committed with: its flags as digits in C order (None in older stores), and its shards by key."""

    flags: str | None
    shards: dict[str, Seal]


class SealingStore(LocalStore):
    """A local store that remembers the seal of whatever is written through it: of the bytes handed over, not read back.

    written: key -> seal, until it is cleared. chunks: path of an array -> chunks in each of its shards.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self.written: dict[str, Seal] = {}
        self.chunks: dict[str, int] = {}

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file whole."""
        await super().set(key, value)
        content = memoryview(value.as_buffer_like())
        chunks = self.chunks.get(key.rpartition("/c.")[0], 1)
        self.written[key] = await asyncio.to_thread(seal, content, chunks)


def seal(content: Any, chunks: int = 1) -> Seal:
    """The seal of bytes in memory; chunks: how many there are, where they are a shard."""
    view = memoryview(content).cast("B")
    listed = None
    if chunks > 1:
        ends = _ends(lambda start, stop: view[start:stop], len(view), chunks, range(chunks))
        listed = base64.b64encode(ends.tobytes()).decode()
    return Seal(len(view), hashlib.sha256(view).hexdigest(), listed)


def _ends(read: Callable[[int, int], Any], size: int, chunks: int, wanted: Sequence[int]) -> np.ndarray:
    """The CRC-32Cs that these chunks of a shard end with, 0 for one that is not there; ValueError where none can be.

    read: the bytes from one place to another. size: of the shard.
    """
    start = size - _CHECKSUM.itemsize - chunks * _PLACE.itemsize
    if start < 0:
        raise ValueError("shorter than its index")
    places = np.frombuffer(read(start, start + chunks * _PLACE.itemsize), _PLACE)
    ends = np.zeros(len(wanted), _CHECKSUM)
    for position, (offset, length) in enumerate(places[list(wanted)].tolist()):
        if offset != _NO_CHUNK:
            if length < _CHECKSUM.itemsize or offset + length > size:
                raise ValueError("its index leads out of it")
            ends[position : position + 1] = np.frombuffer(read(offset + length - 4, offset + length), _CHECKSUM)
    return ends


def seal_file(file: Path) -> Seal:
    """The seal of a file as it is now; OSError where it cannot be read, also for a link."""
    digest, size = hashlib.sha256(), 0
    with _opened(file) as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return Seal(size, digest.hexdigest())


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """A file of this machine that is no link, or the content of one at an address."""
    if is_remote(file):
        yield file.open("rb")
        return
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as opened:
        yield opened


def difference(file: Path, expected: Seal, contents: bool = False) -> str:
    """How a file differs from its seal, "" where it does not: its kind and size, and its contents where asked for.

    Raises OSError where the disk refuses: that says nothing about the file.
    """
    size = file_size(file)
    if size is None:
        return "is missing"
    if size < 0:
        return "is a link or a folder instead of a file"
    if size != expected.size:
        return f"has {size} bytes instead of {expected.size}"
    if contents and expected.sha256 is not None and seal_file(file)[:2] != expected[:2]:
        return OTHER
    return ""


def difference_of_chunks(file: Path, expected: Seal, wanted: Sequence[int]) -> str:
    """How these chunks of a shard differ from its seal, "" where they do not: by kind and size of the file, and by the
    CRC-32C that each ends with, which the codec compares with the chunk itself.

    Without a list of them the whole shard is compared. Raises OSError where the disk refuses.
    """
    if expected.chunks is None:
        return difference(file, expected, contents=True)
    if what := difference(file, expected):
        return what
    listed = np.frombuffer(base64.b64decode(expected.chunks), _CHECKSUM)

    def read(start: int, stop: int) -> bytes:
        opened.seek(start)
        return opened.read(stop - start)

    with _opened(file) as opened:
        try:
            same = np.array_equal(_ends(read, expected.size, len(listed), wanted), listed[list(wanted)])
        except ValueError:
            return OTHER
    return "" if same else OTHER


def file_size(file: Path) -> int | None:
    """Bytes in a file; None when there is none, -1 for what is no regular file (links are not followed)."""
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def inside(root: Path, file: Path) -> bool:
    """Whether a file lies in a folder without a link on the way that leads out of it."""
    return file.parent.resolve().is_relative_to(root.resolve())


def canonical(config: Mapping[str, Any]) -> str:
    """A mapping as JSON, independent of the order of its keys."""
    return json.dumps(config, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def manifest_file(path: Path, unit: int) -> Path:
    """Where the seals of a committed unit are kept."""
    return path / "units" / f"{unit:06d}.json"


def static_file(path: Path) -> Path:
    """Where the seals of everything that never changes are kept: metadata, coordinates, masks."""
    return path / "units" / "static.json"


def write_manifest(path: Path, unit: int, flags: np.ndarray, shards: Mapping[str, Seal]) -> None:
    """Write the seals of a unit; flags: as the unit is flagged, or about to be."""
    _write(manifest_file(path, unit), {"unit": unit, "flags": digits(flags), "shards": _plain(shards)})


def read_manifest(path: Path, unit: int) -> Manifest | None:
    """What a unit was committed with; None when that is missing, unreadable, or of another unit.

    Raises OSError where the disk refuses.
    """
    value = _read(manifest_file(path, unit))
    if value is None or value.get("unit") != unit or not isinstance(value.get("flags", ""), str):
        return None
    shards = _seals(value.get("shards"))
    return None if shards is None else Manifest(value.get("flags"), shards)


def write_static(path: Path, folder: str, keys: Iterable[str]) -> None:
    """Seal the files of a store that are never written again, as they are now."""
    _write(static_file(path), {"files": _plain({key: seal_file(path / folder / key) for key in sorted(keys)})})


def read_static(path: Path) -> dict[str, Seal] | None:
    """Key -> seal of every file that never changes; None when that is missing or unreadable."""
    value = _read(static_file(path))
    return None if value is None else _seals(value.get("files"))


def digits(flags: np.ndarray) -> str:
    """Flags as one digit each, in C order."""
    return "".join(map(str, np.asarray(flags).ravel().tolist()))


def _write(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    write_json(file, {**value, "sha256": config_hash(value)})


def _read(file: Path) -> dict[str, Any] | None:
    """A JSON object that agrees with the checksum in it (older ones have none)."""
    if (file_size(file) or -1) < 0:
        return None
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    own = value.pop("sha256", None)
    try:
        return value if own is None or own == config_hash(value) else None
    except (ValueError, RecursionError):
        return None


def _plain(seals: Mapping[str, Seal]) -> dict[str, dict[str, Any]]:
    return {
        key: {"bytes": each.size, "sha256": each.sha256} | ({"chunks": each.chunks} if each.chunks else {})
        for key, each in seals.items()
    }


def _seals(value: Any) -> dict[str, Seal] | None:
    """Seals as they are stored; older stores have sizes only. None for anything else, and for keys that lead out."""
    if not isinstance(value, dict):
        return None
    seals = {}
    for key, entry in value.items():
        known = entry if isinstance(entry, dict) else {"bytes": entry}
        size, sha256, chunks = (known.get(name) for name in ("bytes", "sha256", "chunks"))
        if key.startswith("/") or ".." in key.split("/"):
            return None
        if not isinstance(size, int) or not isinstance(sha256, str | None):
            return None
        if not isinstance(chunks, str | None):
            return None
        seals[key] = Seal(size, sha256, chunks)
    return seals
