"""Put right in a run or a sweep what can be, and take out what cannot: `trace repair`.

Nothing is deleted but leftovers of killed writers, and nothing is computed. In this order: everything is looked at
again, and a refusal of the disk or of memory stops the repair before anything is changed; lost coordinates are copied
from another group whose copy has the right checksum; lost lists of shards, and lost flags, are made again where every
shard is there and sound; what is left of a unit that is damaged is moved to `damaged/<time>/` and its flag taken, so
that a resume makes it again.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import zarr

from interventions.errors import FailureError
from tracer.store import claims
from tracer.store.config import check_writable
from tracer.store.durable import opened_disk, sync_filesystem
from tracer.store.find import root_attributes
from tracer.store.schema import RunError, Schema
from tracer.store.seals import (
    Seal,
    digits,
    file_size,
    inside,
    manifest_file,
    read_manifest,
    seal_file,
    write_manifest,
)
from tracer.store.shards import (
    damaged_shards,
    flag_key,
    open_store,
    read_flags,
    refuse_links,
    schema_at,
    shards_of,
    status_array,
    undecodable,
    unflag,
    unit_arrays,
    unit_parts,
)
from tracer.store.static import restore_static
from tracer.store.verification import Verification, store_at, verify

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?$")  # as `tracer.store.durable` names them
_ABANDONED = 3600.0  # seconds after which a creation that was never renamed counts as left behind


class RepairError(FailureError):
    """The store could not be looked at or changed now; the message says why, and that nothing was changed."""


class BusyError(RunError):
    """A living worker writes to the store."""


@dataclass(frozen=True)
class Repair:
    """What was done. restored: what is sound again. moved: condemned units. folder: where what is left of them lies."""

    restored: tuple[str, ...]
    moved: tuple[int, ...]
    folder: Path
    swept: int
    after: Verification

    def __str__(self) -> str:
        lines = [f"restored: {text}" for text in self.restored]
        if self.moved:
            lines.append(
                f"unit {', '.join(map(str, self.moved))}: damaged, to be computed again; what was left is in "
                f"{self.folder} (delete it when you need it no more)"
            )
        if self.swept:
            lines.append(f"{self.swept} leftovers of killed writers removed")
        return "\n".join([*(lines or ["nothing to repair"]), str(self.after)])


def repair(path: str | Path, *, lease: float = claims.LEASE) -> Repair:
    """Restore what can be restored and take out what cannot, so that a resume computes it again.

    Raises BusyError while a living worker writes to the store, RunError for a store that is only read today, and
    RepairError, with nothing changed, where the disk or memory refuses.
    """
    store = store_at(path)
    schema = schema_at(store)
    if _linked(store):
        raise RunError(f"{store / 'claims'} is a link, which is not followed: put there the folder that it names")
    if not (store / "claims").is_dir():
        check_writable(store, schema, root_attributes(store, schema))
        (store / "claims").mkdir()
    if busy := claims.surely_live(store / "claims", lease):  # a silent worker elsewhere is waited for, it may be dead
        raise BusyError(f"{store} is being written (unit {busy[0]}); repair it when the workers are done")
    before = _looked_at(store, lease)
    folder = store / "damaged" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    with claims.locked(store / "claims"):  # no worker can begin a unit meanwhile
        refuse_busy(store, lease)
        _put_folders_aside(store, before, folder)
        restored = restore_static(store)
        attributes = root_attributes(store, schema)
        check_writable(store, schema, attributes)
        root = open_store(store, "r")
        refuse_links(store, root)
        units = _Units(store, schema, unit_arrays(root, schema), status_array(root))
        again = _looked_at(store, lease) if restored or before.findings else before
        condemned = []
        for unit in again.damaged:
            if done := units.restored(unit):
                restored.append(done)
            else:
                condemned.append(unit)
        for unit in condemned:
            units.move(unit, folder)
        swept = sweep(store)
        with opened_disk(store) as disk:
            sync_filesystem(disk)
    return Repair(tuple(restored), tuple(condemned), folder, swept, verify(store, lease=lease))


def _linked(store: Path) -> bool:
    """Whether a link stands where claims are kept, or where their lock is."""
    return (store / "claims").is_symlink() or (store / "claims" / "lock").is_symlink()


def _put_folders_aside(store: Path, seen: Verification, folder: Path) -> None:
    """Move what is a folder where a file should be."""
    for finding in seen.findings:
        for place in (store / finding.key, store / schema_at(store).folder / finding.key):
            is_file = finding.key.endswith(".json") or "/c." in finding.key
            if is_file and inside(store, place) and place.is_dir() and not place.is_symlink():
                target = folder / place.relative_to(store)
                target.parent.mkdir(parents=True, exist_ok=True)
                place.rename(target)


def finalize(path: str | Path, *, contents: bool = True, lease: float = claims.LEASE) -> Verification:
    """The end of a run: sweep what killed writers left, unless somebody still writes, and verify. Condemns nothing."""
    store = store_at(path)
    own = (store / "claims").is_dir() and not _linked(store)
    if own and not claims.live_claims(store / "claims", lease):
        with claims.locked(store / "claims"):
            if not claims.live_claims(store / "claims", lease):
                sweep(store)
    return verify(store, contents=contents, lease=lease)


def mend(path: Path, report: Verification, found: Callable[[Verification], object] = lambda report: None) -> bool:
    """Repair a store in which something was found, unless somebody writes to it; `found` is told. Whether it was."""
    if not report.findings or report.writing:
        return False
    found(report)
    try:
        repair(path)
    except BusyError:  # somebody began to write since: they, or who ends last, will find the same
        return False
    return True


def refuse_busy(store: Path, lease: float) -> None:
    """Raise BusyError while a living worker holds a unit."""
    if busy := claims.live_claims(store / "claims", lease):
        raise BusyError(f"{store} is being written (unit {busy[0]}); repair it when the workers are done")


def sweep(store: Path) -> int:
    """Remove partial files, claims of dead workers, and creations of this store that were never finished.

    Call it under the lock of the claims, when no worker lives. Links are not followed.
    """
    data = store / schema_at(store).folder
    stray = [f for f in _files(store) if _PARTIAL.search(f.name) or (f.suffix == ".partial" and data in f.parents)]
    if not (store / "claims").is_symlink():
        stray += [file for file in (store / "claims").iterdir() if re.fullmatch(r"\d{6,}\.json", file.name)]
    for file in stray:
        file.unlink(missing_ok=True)
    own = store.absolute()
    named = re.compile(re.escape(own.name) + r"\.creating-[0-9a-f]{32}")
    left = [
        folder
        for folder in own.parent.iterdir()
        if named.fullmatch(folder.name)
        and not folder.is_symlink()
        and folder.is_dir()
        and time.time() - folder.stat().st_mtime > _ABANDONED
    ]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(stray) + len(left)


def _files(store: Path) -> Iterator[Path]:
    """Every file below the store's directory, links to folders not followed."""
    for place, _, names in os.walk(store, followlinks=False):
        yield from (Path(place) / name for name in names)


def _looked_at(store: Path, lease: float) -> Verification:
    """What is wrong, seen twice, the second time not from the system's cache; RepairError where it cannot be seen."""
    for attempt in range(2):
        try:
            seen = verify(store, lease=lease)
        except MemoryError as error:
            raise RepairError(f"not enough memory to look at {store}; nothing was changed") from error
        for finding in seen.findings:
            if finding.unread:
                raise RepairError(f"{store}: {finding}; nothing was changed. Try again when the disk answers")
        if not seen.findings:
            break
        if attempt == 0:
            for finding in seen.findings:
                _drop_cache(store / schema_at(store).folder / finding.key)
    return seen


def _drop_cache(file: Path) -> None:
    """Make the next read of a file ask the disk."""
    if (file_size(file) or -1) > 0 and hasattr(os, "posix_fadvise"):
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Units:
    """The units of a store whose lock is held."""

    store: Path
    schema: Schema
    arrays: dict[str, zarr.Array]
    status: zarr.Array

    def restored(self, unit: int) -> str:
        """Make the list of shards or the flag of a unit again where all of it is there; says what was done, or ""."""
        part = unit_parts(self.status)[unit]
        flags, manifest = read_flags(self.status, part), read_manifest(self.store, unit)
        if manifest is not None:
            if manifest.flags in (None, digits(flags)) or damaged_shards(self.store, unit, contents=True):
                return ""
            return self._flag_again(unit, part, manifest.flags)
        if not flags.any() or (seals := self._seals(part)) is None:
            return ""
        write_manifest(self.store, unit, flags, seals)
        return f"the list of shards of unit {unit}, from its {len(seals)} shards, which all decode"

    def _flag_again(self, unit: int, part: slice, flags: str) -> str:
        shape = (*self.status.shape[:-1], part.stop - part.start)
        unflag(self.store, unit)
        values = np.array([int(digit) for digit in flags], np.int8).reshape(shape)
        status_array(open_store(self.store, "r+"))[..., part] = values
        return f"the flags of unit {unit}, whose shards are all as they were committed"

    def _seals(self, part: slice) -> dict[str, Seal] | None:
        """The seals of the unit's shards as they are now; None where one is missing or does not decode.

        An optional array may have none; all of an array that must be there have to be.
        """
        data = self.store / self.schema.folder
        seals: dict[str, Seal] = {}
        for array in self.arrays.values():
            shards = list(shards_of(array, self.schema.unit_dim, part))
            there = [key for key, _ in shards if (file_size(data / key) or -1) > 0]
            if not there and array.attrs.get("optional"):
                continue
            if len(there) < len(shards) or any(undecodable(array, region) for _, region in shards):
                return None
            seals |= {key: seal_file(data / key) for key in there}
        return seals

    def move(self, unit: int, folder: Path) -> None:
        """Take the flag from a unit, durably, then move its list and its shards into a folder."""
        data = self.store / self.schema.folder
        part = unit_parts(self.status)[unit]
        keys = [key for array in self.arrays.values() for key, _ in shards_of(array, self.schema.unit_dim, part)]
        flag = data / flag_key(self.schema, unit)
        kept = folder / self.schema.folder / flag_key(self.schema, unit)
        if (file_size(flag) or -1) >= 0:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(flag.read_bytes())
        unflag(self.store, unit)
        for file in [manifest_file(self.store, unit), *(data / key for key in keys)]:
            if file_size(file) is not None:
                target = folder / file.relative_to(self.store)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
