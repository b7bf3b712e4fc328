"""Writing a run: whole shards, one unit of samples at a time, flagged complete only when they are on the disk.

The order that makes a crash harmless (docs/schema.md): clear the flag, delete what is there, write each shard once,
sync, write the flag, sync. One background thread encodes and writes; its errors surface in the caller. Creating a run
is `tracer.store.create`.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from interventions.errors import FailureError
from tracer.store import claims
from tracer.store.durable import sync_filesystem, write_json
from tracer.store.provenance import provenance
from tracer.store.schema import STATUS_COMPLETE, STATUS_FAILED, STATUS_MISSING, RunError, round_mantissa
from tracer.store.shards import (
    clear_unit,
    cuts,
    damaged_shards,
    dims,
    file_size,
    manifest_file,
    open_store,
    read_status,
    sample_arrays,
    shards_of,
    status_array,
)

_QUEUED_SHARDS = 4


class WriteError(FailureError):
    """The run could not be written on; what was flagged complete stays valid."""


class Writer:
    """Writes the units of one run; a context manager.

    path: the run directory. config_hash: of the configuration now in use; another one than the store's is refused.
    lease: seconds after which a worker that stopped answering loses its unit.
    Raises RunError for a run that is not there or was made with another configuration.
    """

    def __init__(
        self, path: str | Path, config_hash: str | None = None, *, lease: float = 120.0, launch: dict | None = None
    ) -> None:
        self.path = Path(path)
        self.lease = lease
        self._launch = launch or {}
        self._root = open_store(self.path, "r+")
        if config_hash is not None and config_hash != self._root.attrs["config_hash"]:
            raise RunError(
                f"{self.path} was made with another configuration; choose another --out, or the same options"
            )
        self._status = status_array(self._root)
        self._arrays = sample_arrays(self._root)
        self._jobs: queue.Queue[tuple[str, tuple[slice, ...], np.ndarray] | None] = queue.Queue(_QUEUED_SHARDS)
        self._error: BaseException | None = None
        self._discard = False
        self._claim: tuple[int, str] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Writer:
        now = datetime.now(UTC)
        launch = {"started": now.isoformat(timespec="seconds"), "provenance": provenance(), **self._launch}
        with self._disk_errors():
            write_json(self.path / "launches" / f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json", launch)
        self._thread = threading.Thread(target=self._work, name="trace-writer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
        if exception[0] is None:
            self._raise()

    @property
    def units(self) -> int:
        """Number of units of the run."""
        return -(-self._status.shape[1] // self._status.chunks[1])

    def samples(self, unit: int) -> slice:
        """The samples of a unit; the last unit may be smaller than the rest."""
        if not 0 <= unit < self.units:
            raise RunError(f"unit {unit} is outside 0..{self.units - 1}")
        size = self._status.chunks[1]
        return slice(unit * size, min((unit + 1) * size, self._status.shape[1]))

    def complete(self, unit: int) -> bool:
        """Whether the unit is flagged, and its shards have the sizes they were committed with."""
        status = read_status(self.path)[:, self.samples(unit)]
        return bool((status != STATUS_MISSING).all()) and not damaged_shards(self.path, unit)

    def pending(self, rank: int = 0, world: int = 1) -> list[int]:
        """Units that are not complete and belong to this worker: `units[rank::world]`."""
        if not 0 <= rank < world:
            raise RunError(f"rank {rank} of {world} workers; the rank counts from 0")
        status = read_status(self.path)
        return [
            unit
            for unit in range(self.units)[rank::world]
            if (status[:, self.samples(unit)] == STATUS_MISSING).any() or damaged_shards(self.path, unit)
        ]

    @contextlib.contextmanager
    def unit(self, unit: int) -> Iterator[Unit]:
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
            buffer = Unit(self, samples)
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

    def _commit(self, unit: int, buffer: Unit) -> None:
        buffer.close()
        self._jobs.join()
        self._raise()
        store = self.path / "trace.zarr"
        keys = [key for array in self._arrays.values() for key, _ in shards_of(array, buffer.samples)]
        shards = {key: size for key in keys if (size := file_size(store / key)) is not None}
        with self._disk_errors():
            write_json(manifest_file(self.path, unit), {"unit": unit, "shards": shards})
            sync_filesystem(store)
            self._keep_claim()
            self._status[:, buffer.samples] = buffer.status
            sync_filesystem(store)

    def submit(self, path: str, region: tuple[slice, ...], values: np.ndarray) -> None:
        """Queue one whole shard; blocks while the queue is full. Raises WriteError when the writer thread failed."""
        array = self._arrays[path]
        for part, cut, size in zip(region, cuts(array), array.shape, strict=True):
            if part.start % cut or part.stop != min(part.start + cut, size):
                raise RunError(f"{path}: {region} is not one whole shard of {cuts(array)}")
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


@dataclass
class Unit:
    """The unit being filled: values by step and final values, kept in memory until a shard is whole."""

    _writer: Writer
    samples: slice
    status: np.ndarray = field(init=False)
    _open: dict[tuple[str, int, int], np.ndarray] = field(default_factory=dict)
    _sent: set[tuple[str, int, int]] = field(default_factory=set)
    _steps: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._arrays = self._writer._arrays
        self._n = self.samples.stop - self.samples.start
        self.status = np.full((self._writer._status.shape[0], self._n), STATUS_COMPLETE, np.int8)

    def step(self, step: int, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Give values of one step: [arm, sample, ...] in the order of the dims, without arm where it has none.

        arms: indices of the arms along the first axis, all by default. Values are copied. Steps may come in any order
        within a block of steps, and blocks in rising order for one arm. Raises RunError for an unknown name, another
        shape, a step out of range or already written; WriteError when the writer failed.
        """
        self._steps.add(step)
        for path, value in values.items():
            array = self._array(path, per_step=True)
            axis = dims(array).index("step")
            if not 0 <= step < array.shape[axis]:
                raise RunError(f"step {step} of {path} is outside 0..{array.shape[axis] - 1}")
            self._put(path, array, value, arms, step // cuts(array)[axis], step % cuts(array)[axis])

    def final(self, values: Mapping[str, Any], arms: Sequence[int] | None = None) -> None:
        """Give values of arrays without a step axis, as for `step`."""
        for path, value in values.items():
            self._put(path, self._array(path, per_step=False), value, arms, 0, None)

    def fail(self, sample: int, arm: int | None = None) -> None:
        """Flag a sample (counted within the unit) of one arm, or all, as failed: masked for readers, not resumed."""
        self.status[slice(None) if arm is None else arm, sample] = STATUS_FAILED

    def close(self) -> None:
        """Hand every shard of the unit to the writer; RunError when a variable or a step was left out."""
        given = {path for path, _, _ in self._open} | {path for path, _, _ in self._sent}
        needed = {path for path, array in self._arrays.items() if not array.attrs.get("optional")}
        if missing := sorted(needed - given):
            raise RunError(
                f"nothing was given for {', '.join(missing)}; leave it out of the run's variables, or give it"
            )
        for path, array in self._arrays.items():
            blocks = {}
            for dim, size, cut in zip(dims(array), array.shape, cuts(array), strict=True):
                blocks[dim] = range(-(-size // cut))
                if dim == "step" and len(self._steps) < size:
                    raise RunError(f"only {len(self._steps)} of {size} steps of the unit were given")
            if array.attrs.get("before_onset") is not None and path in given:
                for block in itertools.product(blocks.get("arm", [0]), blocks.get("step", [0])):
                    if (path, *block) not in self._sent:
                        self._block(path, array, *block)
        self._flush(list(self._open))

    def _array(self, path: str, per_step: bool) -> zarr.Array:
        array = self._arrays.get(path)
        if array is None or ("step" in dims(array)) != per_step:
            kind = "with" if per_step else "without"
            raise RunError(
                f"{path} is not a variable {kind} steps of this run; it has {', '.join(sorted(self._arrays))}"
            )
        return array

    def _put(
        self, path: str, array: zarr.Array, value: Any, arms: Sequence[int] | None, block: int, offset: int | None
    ) -> None:
        names, value = dims(array), np.asarray(value)
        has_arm = names[0] == "arm"
        indices = list(range(array.shape[0])) if arms is None else [int(arm) for arm in arms]
        rest = tuple(n for n, dim in zip(array.shape, names, strict=True) if dim not in ("arm", "sample", "step"))
        expected = ((len(indices),) if has_arm else ()) + (self._n, *rest)
        if value.shape != expected or not np.can_cast(value.dtype, array.dtype, "same_kind"):
            raise RunError(f"{path} takes {array.dtype} {expected} here, not {value.dtype} {value.shape}")
        per_shard = cuts(array)[0] if has_arm else 1
        steps_first = (slice(None), offset) if offset is not None else (slice(None),)
        for position, arm in enumerate(indices) if has_arm else [(None, 0)]:
            if has_arm and not 0 <= arm < array.shape[0]:
                raise RunError(f"arm {arm} of {path} is outside 0..{array.shape[0] - 1}")
            key = (path, arm // per_shard if has_arm else 0, block)
            self._flush([other for other in self._open if other[:2] == key[:2] and other[2] < block])
            target = self._block(path, array, key[1], block)
            lane = target[arm % per_shard] if has_arm else target
            lane[steps_first] = value[position] if has_arm else value

    def _block(self, path: str, array: zarr.Array, arm_block: int, step_block: int) -> np.ndarray:
        key = (path, arm_block, step_block)
        if key in self._sent:
            raise RunError(f"this part of {path} is already written; give the steps of an arm in rising order")
        if key not in self._open:
            shape = tuple(part.stop - part.start for part in self._region(array, arm_block, step_block))
            before = array.attrs.get("before_onset")
            self._open[key] = np.full(shape, array.fill_value if before is None else before, array.dtype)
        return self._open[key]

    def _region(self, array: zarr.Array, arm_block: int, step_block: int) -> tuple[slice, ...]:
        blocks = {"arm": arm_block, "step": step_block}
        region = []
        for dim, cut, size in zip(dims(array), cuts(array), array.shape, strict=True):
            start = self.samples.start if dim == "sample" else blocks.get(dim, 0) * cut
            region.append(slice(start, min(start + cut, size)))
        return tuple(region)

    def _flush(self, keys: Sequence[tuple[str, int, int]]) -> None:
        for key in keys:
            self._sent.add(key)
            region = self._region(self._arrays[key[0]], *key[1:])
            self._writer.submit(key[0], region, self._open.pop(key))
