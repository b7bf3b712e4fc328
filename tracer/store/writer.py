"""Writing a run or a sweep: whole shards, one unit at a time, flagged complete only when they are on the disk.

The order that makes a crash harmless (docs/schema.md): clear the flag, delete what is there, write each shard once,
sync, write the flag, sync. One background thread encodes and writes; its errors surface in the caller. Creating a run
is `tracer.store.create`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from interventions.errors import FailureError
from tracer.store import claims
from tracer.store.config import check_writable
from tracer.store.durable import sync_filesystem, write_json
from tracer.store.provenance import provenance
from tracer.store.schema import STATUS_MISSING, RunError, round_mantissa
from tracer.store.shards import (
    clear_unit,
    damaged_shards,
    file_size,
    manifest_file,
    open_store,
    read_status,
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


class Writer:
    """Writes the units of one run or sweep; a context manager.

    path: its directory. config_hash: of the configuration now in use; another one than the store's is refused.
    lease: seconds after which a worker that stopped answering loses its unit.
    Raises RunError for a store that is not there, was made with another configuration, or is too old to be continued.
    """

    def __init__(
        self, path: str | Path, config_hash: str | None = None, *, lease: float = 120.0, launch: dict | None = None
    ) -> None:
        self.path = Path(path)
        self.lease = lease
        self._launch: dict[str, Any] = launch or {}
        self.schema = schema_at(self.path)
        root = open_store(self.path, "r+")
        check_writable(self.path, self.schema, root.attrs)
        if config_hash is not None and config_hash != root.attrs["config_hash"]:
            raise RunError(
                f"{self.path} was made with another configuration; choose another --out, or the same options"
            )
        self._status = status_array(root)
        self._arrays = unit_arrays(root, self.schema)
        self._jobs: queue.Queue[tuple[str, tuple[slice, ...], np.ndarray] | None] = queue.Queue(_QUEUED_SHARDS)
        self._error: BaseException | None = None
        self._discard = False
        self._claim: tuple[int, str] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Writer:
        now = datetime.now(UTC)
        self._launch = {"started": now.isoformat(timespec="seconds"), "provenance": provenance(), **self._launch}
        self._launch_file = self.path / "launches" / f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json"
        with self._disk_errors():
            write_json(self._launch_file, self._launch)
        self._thread = threading.Thread(target=self._work, name="trace-writer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
        if exception[0] is None:
            self._raise()

    def note(self, name: str, text: str) -> None:
        """Add a line to the list `name` of this writer's launch record."""
        self._launch = {**self._launch, name: [*self._launch.get(name, []), text]}
        with self._disk_errors():
            write_json(self._launch_file, self._launch)

    @property
    def units(self) -> int:
        """Number of units of the store."""
        return len(unit_parts(self._status))

    def samples(self, unit: int) -> slice:
        """The samples of a unit (the cell, in a sweep); the last unit may be smaller than the rest."""
        if not 0 <= unit < self.units:
            raise RunError(f"unit {unit} is outside 0..{self.units - 1}")
        return unit_parts(self._status)[unit]

    def complete(self, unit: int) -> bool:
        """Whether the unit is flagged, and its shards have the sizes they were committed with."""
        status = read_status(self.path)[..., self.samples(unit)]
        return bool((status != STATUS_MISSING).all()) and not damaged_shards(self.path, unit)

    def pending(self) -> list[int]:
        """Units that are not complete, in order."""
        status = read_status(self.path)
        return [
            unit
            for unit, part in enumerate(unit_parts(self._status))
            if (status[..., part] == STATUS_MISSING).any() or damaged_shards(self.path, unit)
        ]

    @contextlib.contextmanager
    def unit(self, unit: int) -> Iterator[UnitBuffer]:
        """Take a unit, fill it in the body, commit it on leaving; an exception abandons it without a flag.

        Raises ClaimError when another living worker holds it, RunError when the body left something out, WriteError
        when writing failed.
        """
        samples = self.samples(unit)
        if self._thread is None:
            raise RuntimeError("enter the Writer with `with` before taking a unit")
        with self._disk_errors():
            self._claim = (unit, claims.claim(self.path / "claims", unit, self.lease))
        try:
            with self._disk_errors():
                clear_unit(self.path, self._arrays.values(), unit, samples)
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
        data = self.path / self.schema.folder
        keys = [k for array in self._arrays.values() for k, _ in shards_of(array, self.schema.unit_dim, buffer.samples)]
        shards = {key: size for key in keys if (size := file_size(data / key)) is not None}
        with self._disk_errors():
            write_json(manifest_file(self.path, unit), {"unit": unit, "shards": shards})
            sync_filesystem(data)
            self._keep_claim()
            self._status[..., buffer.samples] = buffer.status
            sync_filesystem(data)

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
            try:
                job = self._jobs.get(timeout=self.lease / 8)
            except queue.Empty:
                with contextlib.suppress(OSError, claims.ClaimError):  # raised where something would be written
                    self._keep_claim()
                continue
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

    def _keep_claim(self) -> None:
        """Renew the lease; ClaimError when the unit was taken over, so that nothing more of it is written here."""
        if (held := self._claim) is not None and not claims.renew(self.path / "claims", *held):
            raise claims.ClaimError(f"unit {held[0]} of {self.path} was taken over by another worker; not flagged here")

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
