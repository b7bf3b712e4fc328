"""Check a run or a sweep from end to end and tidy it: `trace finalize`.

Decodes every committed shard (each carries a checksum), takes the flag from units that are damaged so that a resume
makes them again, and sweeps what killed writers left behind. It repairs nothing else and never computes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from tracer.store import claims
from tracer.store.config import check_writable
from tracer.store.durable import sync_filesystem
from tracer.store.find import locate, root_attributes
from tracer.store.remote import local
from tracer.store.schema import STATUS_FAILED, STATUS_MISSING, RunError
from tracer.store.shards import (
    clear_unit,
    damaged_shards,
    open_store,
    read_status,
    schema_at,
    shards_of,
    status_array,
    unit_arrays,
    unit_parts,
)

_ABANDONED = 3600.0  # seconds after which a creation that was never renamed counts as left behind


@dataclass(frozen=True)
class FinalizeReport:
    """What finalize saw. missing, failed: samples (cells of a sweep); damaged: unit -> what is wrong; swept: files
    removed.
    """

    run: str
    samples: int
    complete: int
    missing: tuple[int, ...]
    failed: tuple[int, ...]
    damaged: dict[int, str]
    swept: int
    noun: str = "samples"

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.missing and not self.damaged

    def __str__(self) -> str:
        lines = [
            f"{self.run}: {self.complete} of {self.samples} {self.noun} complete, {self.swept} stray files removed"
        ]
        lines += [f"unit {unit} was damaged and is to be made again: {what}" for unit, what in self.damaged.items()]
        if self.failed:
            lines.append(f"failed {self.noun}: {', '.join(map(str, self.failed))}")
        if self.missing:
            lines.append(f"{len(self.missing)} {self.noun} are missing; continue with --resume")
        return "\n".join(lines)


def finalize(path: str | Path, *, lease: float = 120.0) -> FinalizeReport:
    """Verify a run or sweep, unflag damaged units, sweep partial files; RunError while a living worker writes to it."""
    given = local(path)
    schema = schema_at(given.parent if given.suffix == ".zarr" else given)
    store = locate(path, schema=schema)
    check_writable(store, schema, root_attributes(store, schema))
    _refuse_busy(store, lease)
    root = open_store(store, "r")
    arrays, parts = unit_arrays(root, schema), unit_parts(status_array(root))
    status, damaged = read_status(store), {}
    for unit, part in enumerate(parts):
        if status[..., part].any() and (wrong := _wrong(store, arrays.values(), schema.unit_dim, unit, part)):
            damaged[unit] = wrong
            status[..., part] = STATUS_MISSING
    with claims.locked(store / "claims"):  # no worker can begin a unit while its flag or its files go
        _refuse_busy(store, lease)
        for unit in damaged:
            clear_unit(store, arrays.values(), unit, parts[unit])
        swept = _sweep(store)
    sync_filesystem(store)
    flags = status.reshape(-1, status.shape[-1])
    missing = np.flatnonzero((flags == STATUS_MISSING).any(axis=0)).tolist()
    failed = np.flatnonzero((flags == STATUS_FAILED).any(axis=0)).tolist()
    length = flags.shape[1]
    complete = length - len({*missing, *failed})
    noun = f"{schema.unit_dim}s"
    return FinalizeReport(store.name, length, complete, tuple(missing), tuple(failed), damaged, swept, noun)


def _refuse_busy(run: Path, lease: float) -> None:
    if busy := claims.live_claims(run / "claims", lease):
        raise RunError(f"{run} is being written (unit {busy[0]}); finalize it when the workers are done")


def _wrong(run: Path, arrays: Iterable[zarr.Array], unit_dim: str, unit: int, part: slice) -> str:
    """What is wrong with a flagged unit, "" when nothing is: every shard is decoded, so that checksums speak."""
    bad = damaged_shards(run, unit)
    if bad is None:
        return "its list of shards is gone"
    if bad:
        return f"{bad[0]} is missing or has another size than when it was committed"
    for array in arrays:
        for key, region in shards_of(array, unit_dim, part):
            try:
                array[region]
            except Exception as error:  # a codec may raise anything on damaged bytes
                return f"{key} cannot be read ({error})"
    return ""


def _sweep(run: Path) -> int:
    """Remove partial files, claims of dead workers, and creations of this run that were never finished."""
    stray = [*run.rglob("*.partial"), *(run / "claims").glob("*.json")]
    for file in stray:
        file.unlink(missing_ok=True)
    for left in run.parent.glob(f"{run.name}.creating-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
            stray.append(left)
    return len(stray)
