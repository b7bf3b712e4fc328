"""Writing a run or a sweep: whole shards, one unit at a time, flagged complete only when they are on the disk.

The order that makes a crash harmless (docs/schema.md): clear the flag, delete what is there, write each shard once,
write their seals, sync, write the flag, sync. Seals and flag are written under the lock of the claims, so that a worker
that was stopped meanwhile and has lost its unit writes neither. One background thread encodes and writes; its errors
surface in the caller. Creating a run is `tracer.store.create`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from interventions.errors import FailureError
from tracer.store import claims
from tracer.store.config import check_writable
from tracer.store.durable import Disk, close_disk, open_disk, sync_filesystem
from tracer.store.find import root_attributes
from tracer.store.launches import note_launch, record_launch
from tracer.store.remote import local
from tracer.store.schema import STATUS_MISSING, RunError, round_mantissa
from tracer.store.seals import Seal, SealingStore, difference, write_manifest
from tracer.store.shards import (
    chunks_in_shard,
    clear_unit,
    damaged_shards,
    open_store,
    read_flags,
    refuse_links,
    remove_partials,
    schema_at,
    shard_shape,
    shards_of,
    status_array,
    unit_arrays,
    unit_parts,
)
from tracer.store.unit import UnitBuffer

_QUEUED_SHARDS = 4


class WriteError(FailureError):
    """The run could not be written on; what was flagged complete stays valid."""


class CompleteError(claims.ClaimError):
    """Another worker has completed the unit."""


class Writer:
    """Writes the units of one run or sweep; a context manager.

    path: its directory. config_hash: of the configuration now in use; another one than the store's is refused.
    lease: seconds after which a worker that stopped answering loses its unit.
    Raises RunError for a store that is not there, was made with another configuration, or is too old to be continued.
    """

    def __init__(
        self,
        path: str | Path,
        config_hash: str | None = None,
        *,
        lease: float = claims.LEASE,
        launch: dict | None = None,
    ) -> None:
        self.path = local(path)
        self.lease = lease
        self._launch: dict[str, Any] = launch or {}
        self.schema = schema_at(self.path)
        root = open_store(self.path, "r+", SealingStore)
        refuse_links(self.path, root)
        check_writable(self.path, self.schema, root_attributes(self.path, self.schema))
        if config_hash is not None and config_hash != root.attrs["config_hash"]:
            raise RunError(
                f"{self.path} was made with another configuration; choose another --out, or the same options"
            )
        self._status = status_array(root)
        self._parts = unit_parts(self._status)
        whole: Any = {"write_empty_chunks": True}  # also a shard of nothing but fill is a file, so that loss is noticed
        self._arrays = {path: array.with_config(whole) for path, array in unit_arrays(root, self.schema).items()}
        sealing = cast(SealingStore, root.store)
        sealing.chunks = {path: chunks_in_shard(array) for path, array in self._arrays.items()}
        self._sealed = sealing.written
        self._disk: Disk | None = None
        self._jobs: queue.Queue[tuple[str, tuple[slice, ...], np.ndarray] | None] = queue.Queue(_QUEUED_SHARDS)
        self._error: BaseException | None = None
        self._discard = False
        self._claim: tuple[int, str] | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Writer:
        with self._disk_errors():
            record_launch(self.path, self._launch)
            self._disk = open_disk(self.path / self.schema.folder)
        self._thread = threading.Thread(target=self._work, name="trace-writer", daemon=True)
        self._thread.start()
        threading.Thread(target=self._beat, name="trace-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
        self._closed.set()
        if self._disk is not None:
            close_disk(self._disk)
            self._disk = None
        if exception[0] is None:
            self._raise()

    def note(self, name: str, text: str) -> None:
        """Add a line to the list `name` of this process's launch record."""
        with self._disk_errors():
            note_launch(self.path, name, text)

    @property
    def units(self) -> int:
        """Number of units of the store."""
        return len(self._parts)

    def samples(self, unit: int) -> slice:
        """The samples of a unit (the cell, in a sweep); the last unit may be smaller than the rest."""
        if not 0 <= unit < self.units:
            raise RunError(f"unit {unit} is outside 0..{self.units - 1}")
        return self._parts[unit]

    def complete(self, unit: int) -> bool:
        """Whether the unit is flagged, and its flags and its shards' sizes are those it was committed with.

        One chunk of flags is read: what this costs does not grow with the number of units.
        """
        flags = read_flags(self._status, self.samples(unit))
        return bool((flags != STATUS_MISSING).all()) and not damaged_shards(self.path, unit, flags)

    def pending(self) -> list[int]:
        """Units that are not complete, in order."""
        return [unit for unit in range(self.units) if not self.complete(unit)]

    @contextlib.contextmanager
    def unit(self, unit: int, *, again: bool = True) -> Iterator[UnitBuffer]:
        """Take a unit, fill it in the body, commit it on leaving; an exception abandons it without a flag.

        again: whether a unit that is complete is made again; if not, CompleteError is raised once it is held, so that
        no two of many workers make the same. Raises ClaimError when another living worker holds the unit, RunError when
        the body left something out, WriteError when writing failed.
        """
        samples = self.samples(unit)
        if self._thread is None:
            raise RuntimeError("enter the Writer with `with` before taking a unit")
        with self._disk_errors():
            left = claims.exists(self.path / "claims", unit)
            self._claim = (unit, claims.claim(self.path / "claims", unit, self.lease))
        try:
            if not again and self.complete(unit):
                raise CompleteError(f"unit {unit} of {self.path} is complete")
            with self._disk_errors():
                clear_unit(self.path, self._arrays.values(), unit, samples, self._disk)
                if left:  # by a killed worker; else there are none, and listing folders costs more with every unit
                    remove_partials(self.path, self._arrays.values(), samples)
            self._sealed.clear()
            buffer = UnitBuffer(self._arrays, self.schema, samples, self._status.shape[:-1], self.submit)
            yield buffer
            self._commit(unit, buffer)
        finally:
            # After a commit the queue is empty; after an exception its shards are dropped, unflagged.
            self._discard = True
            self._jobs.join()
            self._discard = False
            if isinstance(self._error, claims.ClaimError):  # this unit is lost, the others are not
                self._error = None
            (number, token), self._claim = self._claim, None
            claims.release(self.path / "claims", number, token)

    def _commit(self, unit: int, buffer: UnitBuffer) -> None:
        buffer.close()
        self._jobs.join()
        self._raise()
        seals = self._seals(buffer.samples)
        assert self._disk is not None
        with self._disk_errors():
            with self._still_ours(unit):
                self._check_whole(seals)
                write_manifest(self.path, unit, buffer.status, seals)
            sync_filesystem(self._disk)
            with self._still_ours(unit):
                self._check_whole(seals)
                self._status[..., buffer.samples] = buffer.status
            sync_filesystem(self._disk)

    def _seals(self, samples: slice) -> dict[str, Seal]:
        """The seals of the unit's shards, of the bytes that were handed to the disk."""
        arrays, unit_dim = self._arrays.values(), self.schema.unit_dim
        keys = [key for array in arrays for key, _ in shards_of(array, unit_dim, samples)]
        return {key: self._sealed[key] for key in keys if key in self._sealed}

    def _check_whole(self, seals: Mapping[str, Seal]) -> None:
        """Raise OSError where a shard is gone, or has another size than what was written."""
        for key, sealed in seals.items():
            if what := difference(self.path / self.schema.folder / key, sealed):
                raise OSError(f"{key} {what}")

    @contextlib.contextmanager
    def _still_ours(self, unit: int) -> Iterator[None]:
        """Keep everybody from taking units over while the body writes; ClaimError when this one was."""
        assert self._claim is not None
        directory = self.path / "claims"
        with claims.locked(directory):
            if not claims.holds(directory, *self._claim):
                raise claims.ClaimError(_taken_over(unit, self.path))
            yield

    def submit(self, path: str, region: tuple[slice, ...], values: np.ndarray) -> None:
        """Queue one whole shard; blocks while the queue is full. Raises WriteError when the writer thread failed."""
        array = self._arrays[path]
        for part, cut, size in zip(region, shard_shape(array), array.shape, strict=True):
            if part.start % cut or part.stop != min(part.start + cut, size):
                raise RunError(f"{path}: {region} is not one whole shard of {shard_shape(array)}")
        self._raise()
        self._jobs.put((path, region, values))
        self._raise()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                if not self._discard and self._error is None:
                    self._keep_claim()
                    self._write(*job)
            except BaseException as error:
                self._error = error
            finally:
                self._jobs.task_done()

    def _beat(self) -> None:
        """Renew the lease again and again, however long a step or a shard takes."""
        while not self._closed.wait(self.lease / claims.BEATS):
            if (held := self._claim) is not None:
                with contextlib.suppress(OSError):  # raised where something would be written
                    claims.renew(self.path / "claims", *held)

    def _keep_claim(self) -> None:
        """ClaimError when the unit was taken over, so that nothing more of it is written here."""
        if (held := self._claim) is not None and not claims.holds(self.path / "claims", *held):
            raise claims.ClaimError(_taken_over(held[0], self.path))

    def _write(self, path: str, region: tuple[slice, ...], values: np.ndarray) -> None:
        array = self._arrays[path]
        if bits := array.attrs.get("keep_bits"):
            values = round_mantissa(values, int(str(bits)))
        array[region] = values

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = error
            self._raise()

    def _raise(self) -> None:
        if isinstance(self._error, claims.ClaimError):
            raise self._error
        if self._error is not None:
            raise WriteError(
                f"writing {self.path} failed ({self._error}); units flagged complete stay valid, "
                "put the cause right and continue with --resume"
            ) from self._error


def _taken_over(unit: int, path: Path) -> str:
    return f"unit {unit} of {path} was taken over by another worker; not flagged here"
