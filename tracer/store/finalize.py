"""Check a run from end to end and tidy it: `trace finalize`.

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
from tracer.store.durable import sync_filesystem
from tracer.store.find import locate, root_attributes
from tracer.store.schema import STATUS_FAILED, STATUS_MISSING, RunError
from tracer.store.shards import clear_unit, damaged_shards, open_store, read_status, sample_arrays, shards_of

_ABANDONED = 3600.0  # seconds after which a creation that was never renamed counts as left behind


@dataclass(frozen=True)
class FinalizeReport:
    """What finalize found. missing, failed: samples; damaged: unit -> what is wrong; swept: files removed."""

    run: str
    samples: int
    complete: int
    missing: tuple[int, ...]
    failed: tuple[int, ...]
    damaged: dict[int, str]
    swept: int

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.missing and not self.damaged

    def __str__(self) -> str:
        lines = [f"{self.run}: {self.complete} of {self.samples} samples complete, {self.swept} stray files removed"]
        lines += [f"unit {unit} was damaged and is to be made again: {what}" for unit, what in self.damaged.items()]
        if self.failed:
            lines.append(f"failed samples: {', '.join(map(str, self.failed))}")
        if self.missing:
            lines.append(f"{len(self.missing)} samples are missing; continue the run with --resume")
        return "\n".join(lines)


def finalize(path: str | Path, *, lease: float = 120.0) -> FinalizeReport:
    """Verify a run, unflag damaged units, sweep partial files; RunError while a living worker writes to it."""
    run = locate(path)
    _refuse_busy(run, lease)
    size = int(root_attributes(run)["unit"])
    status, damaged = read_status(run), {}
    arrays = sample_arrays(open_store(run, "r"))
    for unit in range(-(-status.shape[1] // size)):
        part = slice(unit * size, min((unit + 1) * size, status.shape[1]))
        if status[:, part].any() and (wrong := _wrong(run, arrays.values(), unit, part)):
            damaged[unit] = wrong
            status[:, part] = STATUS_MISSING
    with claims.locked(run / "claims"):  # no worker can begin a unit while its flag or its files go
        _refuse_busy(run, lease)
        for unit in damaged:
            clear_unit(run, arrays.values(), unit, slice(unit * size, min((unit + 1) * size, status.shape[1])))
        swept = _sweep(run)
    sync_filesystem(run)
    missing = np.flatnonzero((status == STATUS_MISSING).any(axis=0)).tolist()
    failed = np.flatnonzero((status == STATUS_FAILED).any(axis=0)).tolist()
    complete = status.shape[1] - len({*missing, *failed})
    return FinalizeReport(run.name, status.shape[1], complete, tuple(missing), tuple(failed), damaged, swept)


def _refuse_busy(run: Path, lease: float) -> None:
    if busy := claims.live_claims(run / "claims", lease):
        raise RunError(f"{run} is being written (unit {busy[0]}); finalize it when the workers are done")


def _wrong(run: Path, arrays: Iterable[zarr.Array], unit: int, samples: slice) -> str:
    """What is wrong with a flagged unit, "" when nothing is: every shard is decoded, so that checksums speak."""
    bad = damaged_shards(run, unit)
    if bad is None:
        return "its list of shards is gone"
    if bad:
        return f"{bad[0]} is missing or has another size than when it was committed"
    for array in arrays:
        for key, region in shards_of(array, samples):
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
