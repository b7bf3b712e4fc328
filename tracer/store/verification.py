"""Look at a run or a sweep from end to end and say what is wrong: `trace verify`. Only reads.

Every file is compared with the checksum made when it was written; shards of stores older than checksums are decoded,
so that their own checksums speak. Taking anything back is `tracer.store.repairs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from interventions.errors import RunError
from tracer.store import claims
from tracer.store.find import root_attributes
from tracer.store.schema import STATUS_FAILED, STATUS_MISSING, Schema
from tracer.store.seals import Fault, Seal, file_size, read_manifest, read_static
from tracer.store.shards import (
    damaged_shards,
    dims,
    flag_key,
    open_store,
    read_flags,
    read_status,
    refuse_links,
    schema_at,
    shard_shape,
    shards_of,
    status_array,
    undecodable,
    unit_arrays,
    unit_parts,
)
from tracer.store.static import damaged_static


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. key: the file; where: "unit 3 (samples 24-31), trajectory/delta of R4S32", or "".

    unit: None for what no unit owns. unread: whether the disk refused to be read, which says nothing about the data.
    """

    key: str
    what: str
    where: str = ""
    unit: int | None = None
    unread: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.key} {self.what}" if self.where else f"{self.key} {self.what}"


@dataclass(frozen=True)
class Verification:
    """What was found. missing, failed: samples (cells of a sweep); writing: units that living workers hold.

    unchecked: what could not be checked, and why. files: how many were compared.
    """

    path: Path
    samples: int
    missing: tuple[int, ...]
    failed: tuple[int, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    files: int
    writing: tuple[int, ...] = ()
    noun: str = "samples"

    @property
    def complete(self) -> int:
        """How many samples are flagged, sound and not failed."""
        return self.samples - len({*self.missing, *self.failed})

    @property
    def damaged(self) -> tuple[int, ...]:
        """The units in which something is wrong."""
        return tuple(sorted({finding.unit for finding in self.findings if finding.unit is not None}))

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or wrong."""
        return not self.missing and not self.findings

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.complete} of {self.samples} {self.noun} complete, " + self._summary()]
        lines += [f"  {finding}" for finding in self.findings]
        if self.failed:
            lines.append(f"  failed {self.noun}: {ranges(self.failed)}")
        if self.missing:
            lines.append(f"  missing {self.noun}: {ranges(self.missing)}")
        if self.writing:
            lines.append(f"  being written by living workers: unit {ranges(self.writing)}")
        lines += [f"  not checked: {text}" for text in self.unchecked]
        return "\n".join(lines)

    def _summary(self) -> str:
        if not self.findings:
            return f"all {self.files} files as they were written" if self.files else "nothing to compare with"
        return "1 thing wrong" if len(self.findings) == 1 else f"{len(self.findings)} things wrong"


def verify(path: str | Path, *, contents: bool = True, lease: float = claims.LEASE) -> Verification:
    """Everything that is wrong with a run or a sweep; nothing is written, locked or repaired.

    path: its directory, or the data in it. contents: whether contents are compared, besides kinds and sizes.
    Raises RunError where there is no store at all. A file that the disk refuses to read is a finding.
    """
    store = store_at(path)
    schema = schema_at(store)
    findings, unchecked, files = _static_findings(store, schema)
    noun = f"{schema.unit_dim}s"
    writing = tuple(claims.live_claims(store / "claims", lease))
    try:
        attributes = root_attributes(store, schema)
        root = open_store(store, "r")
        refuse_links(store, root)
        status, arrays, parts = read_status(store), unit_arrays(root, schema), unit_parts(status_array(root))
    except (RunError, OSError) as error:  # there is no way to the units
        findings.append(Finding(f"{schema.folder}/zarr.json", f"does not open: {error}", unread=_is_disk(error)))
        return Verification(store, 0, (), (), tuple(findings), tuple(unchecked), files, writing, noun)
    units = _Units(store, schema, arrays, status_array(root), attributes, contents)
    old = []
    for unit, part in enumerate(parts):
        found = list(units.findings(unit, part, status[..., part]))
        if found and unit in claims.live_claims(store / "claims", lease):
            found, writing = [], tuple(sorted({*writing, unit}))  # taken up while this looked at it
            status[..., part] = STATUS_MISSING
        findings += found
        if found:
            status[..., part] = STATUS_MISSING
        if status[..., part].any():
            seals = units.seals(unit)
            old += [unit] if not seals or None in (seal.sha256 for seal in seals.values()) else []
            files += 1 + len(seals)
    if old:
        unchecked.append(f"contents of unit {ranges(old)} beyond their own checksums (made before this version)")
    flags = status.reshape(-1, status.shape[-1])
    missing = np.flatnonzero((flags == STATUS_MISSING).any(axis=0)).tolist()
    failed = np.flatnonzero((flags == STATUS_FAILED).any(axis=0)).tolist()
    return Verification(
        store, flags.shape[1], tuple(missing), tuple(failed), tuple(findings), tuple(unchecked), files, writing, noun
    )


def store_at(path: str | Path) -> Path:
    """The directory of a store meant by a path, which may be damaged; RunError where there is none."""
    given = Path(path)
    directory = given.parent if given.suffix == ".zarr" else given
    schema_at(directory)
    return directory


def ranges(numbers: Iterable[int]) -> str:
    """`0-3, 7` for 0, 1, 2, 3, 7."""
    text: list[str] = []
    start = last = None
    for number in [*sorted(numbers), None]:
        if last is not None and number == last + 1:
            last = number
            continue
        if start is not None:
            text.append(f"{start}" if start == last else f"{start}-{last}")
        start = last = number
    return ", ".join(text)


def _static_findings(store: Path, schema: Schema) -> tuple[list[Finding], list[str], int]:
    """What is wrong with what never changes, what could not be checked, and how many files were compared."""
    try:
        faults, seals = damaged_static(store), read_static(store)
    except RunError:  # the root's metadata are unreadable and nothing says what should be there; told by `verify`
        return [], [], 0
    except OSError as error:
        return [Finding(schema.folder, f"cannot be read now ({error})", unread=True)], [], 0
    if seals is None and not faults:
        return [], ["metadata, coordinates and masks (made before this version kept their checksums)"], 0
    return [Finding(fault.key, fault.what, _kind(fault.key)) for fault in faults], [], len(seals or ())


def _kind(key: str) -> str:
    """What a file is, in words."""
    if key.endswith("zarr.json"):
        return "metadata"
    if key.startswith("units/"):
        return "checksums"
    return "masks" if key.startswith("interventions/mask") else "coordinates"


@dataclass(frozen=True)
class _Units:
    """The units of a store, to be looked at. contents: whether contents are compared, besides kinds and sizes."""

    store: Path
    schema: Schema
    arrays: dict[str, zarr.Array]
    status: zarr.Array
    attributes: dict[str, Any]
    contents: bool

    @property
    def listed(self) -> bool:
        """Whether units of this store have lists of their shards."""
        return self.attributes["schema_version"] >= self.schema.writable_from

    def seals(self, unit: int) -> dict[str, Seal]:
        """The shards a unit was committed with; none where nothing readable says so."""
        manifest = read_manifest(self.store, unit)
        return {} if manifest is None else manifest.shards

    def findings(self, unit: int, part: slice, flags: np.ndarray) -> Iterator[Finding]:
        """What is wrong with one unit."""
        where = f"unit {unit} ({self.schema.unit_dim}s {part.start}-{part.stop - 1})"
        try:
            for fault in self._faults(unit, part, flags) if flags.any() else self._without_a_flag(unit, part):
                yield Finding(fault.key, fault.what, f"{where}{self._of_array(fault.key)}", unit)
        except OSError as error:
            yield Finding(self.schema.folder, f"cannot be read now ({error})", where, unit, unread=_is_disk(error))

    def _faults(self, unit: int, part: slice, flags: np.ndarray) -> list[Fault]:
        faults = []
        if self.listed:
            faults = damaged_shards(self.store, unit, flags, contents=self.contents)
            faults += [] if faults else self._unlisted(unit, part)
        return faults or (list(self._undecodable(unit, part)) if self.contents else [])

    def _without_a_flag(self, unit: int, part: slice) -> Iterator[Fault]:
        """A unit that counts as missing although it was flagged once: its flags are damaged, or gone."""
        key = flag_key(self.schema, unit)
        if file_size(self.store / self.schema.folder / key) is not None:
            if not read_flags(self.status, part).any():  # it may have been committed since
                yield Fault(key, "holds no flags that can be read")
        elif self.seals(unit) and not damaged_shards(self.store, unit):
            yield Fault(key, "is missing, though every shard of its unit is there")

    def _unlisted(self, unit: int, part: slice) -> list[Fault]:
        """Shards that lie in a unit and were not committed with it: a reader would take them for values."""
        seals, data = self.seals(unit), self.store / self.schema.folder
        keys = [key for array in self.arrays.values() for key, _ in shards_of(array, self.schema.unit_dim, part)]
        unlisted = [key for key in keys if key not in seals and file_size(data / key) is not None]
        return [Fault(key, "was not committed with its unit") for key in unlisted]

    def _undecodable(self, unit: int, part: slice) -> Iterator[Fault]:
        """Shards without a checksum of ours that do not decode: each chunk carries one of its own."""
        seals = self.seals(unit)
        for array in self.arrays.values():
            for key, region in shards_of(array, self.schema.unit_dim, part):
                if key in seals and seals[key].sha256 is not None:
                    continue
                if what := undecodable(array, region):
                    yield Fault(key, what)

    def _of_array(self, key: str) -> str:
        """ ", trajectory/delta of R4S32" for the key of a shard; the arms only where it does not hold all."""
        path, _, index = key.rpartition("/c.")
        if path not in self.arrays:
            return ""
        array = self.arrays[path]
        size = shard_shape(array)[0]
        if dims(array)[0] != "arm" or size >= array.shape[0]:
            return f", {path}"
        first = int(index.split(".")[0]) * size
        return f", {path} of {', '.join(self.attributes['arms'][first : first + size])}"


def _is_disk(error: Exception) -> bool:
    """Whether the disk refused, as against a file that is missing or of another kind."""
    return isinstance(error, OSError) and not isinstance(
        error, FileNotFoundError | IsADirectoryError | NotADirectoryError
    )
