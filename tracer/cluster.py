"""Spreads the units of a run over Dask workers, on this machine or on a cluster that shares its file system.

A task is one unit: its worker loads the request's denoiser once, claims the unit, and runs it as a serial run does, so
the result is the same and a dead worker costs its unit. How a unit is computed and committed is not known here. Every
worker must see the run directory, and any checkpoint folder, under the same path.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, as_completed, get_worker

from interventions.errors import FailureError, InputError
from tracer import store
from tracer.denoisers.base import CheckpointError, optional_parts
from tracer.denoisers.moved import moved
from tracer.denoisers.registry import own_device
from tracer.plan import Plan
from tracer.request import Progress, Request
from tracer.trajectory import run_unit

CONNECT_SECONDS = 15.0
CLAIMED_SECONDS = 5.0
"""How long to wait before asking again for a unit that somebody else holds (its lease ends when its holder is dead)."""
REPORT_SECONDS = 0.25


class ClusterError(InputError):
    """The workers asked for cannot be had; the message says what to type."""


class WorkerDied(FailureError):
    """Workers died again and again in one unit."""


def execute_on_cluster(plan: Plan, path: Path, *, progress: Progress | None = None) -> None:
    """Run every unit that is not complete on the workers the request names: local processes, or a Dask scheduler's.

    A worker loads the denoiser as the request says; one that was handed in is sent to it. `progress` as for
    `run.execute`. Workers come and go: a unit whose worker died is given to another.
    Raises ClusterError when the workers cannot be had, CheckpointError when a worker has other weights, WorkerDied when
    one unit cost several workers, and whatever a unit raised; what is committed stays valid.
    Called from a script, it must stand under `if __name__ == "__main__":` (workers import the script).
    """
    name = f"trace-{uuid.uuid4().hex}"
    sent = replace(plan, denoiser=None, request=_for_workers(plan.request))  # type: ignore[arg-type]
    job = _Job(name, sent, Path(path).resolve())
    pending = store.Writer(path).pending()
    if not pending:
        return
    with connected(plan.request.workers, plan.request.scheduler, len(pending)) as client:
        client.register_plugin(job, name=name)
        try:
            _drive(client, name, pending, plan.schedule.steps, progress)
        finally:
            if client.status == "running":
                client.unregister_worker_plugin(name)


@contextmanager
def connected(workers: int | None, address: str | None, most: int | None = None) -> Iterator[Client]:
    """A client of `workers` one-thread processes on this machine (at most `most`), or of the scheduler at `address`."""
    _named(workers, address)
    if address is not None:
        with _reached(address) as client:
            yield client
        return
    assert workers is not None
    # No memory limit: Dask would kill a worker for the weights it holds, which are none of Dask's data.
    with (
        LocalCluster(
            n_workers=min(workers, most or workers), threads_per_worker=1, processes=True, memory_limit=0,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


def check(workers: int | None, address: str | None) -> None:
    """Raise ClusterError when `execute_on_cluster` could not start; nothing is written."""
    _named(workers, address)
    if address is not None:
        with _reached(address):
            pass


def _named(workers: int | None, address: str | None) -> None:
    if (workers is None) == (address is None):
        raise ClusterError("name either --workers N or --scheduler ADDRESS, not both")
    if workers is not None and workers < 1:
        raise ClusterError(f"--workers {workers}: at least 1")


@contextmanager
def _reached(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--scheduler {address}: no Dask scheduler answers there ({type(error).__name__}); start one with "
            "`dask scheduler` and workers with `dask worker ADDRESS --nthreads 1`, for example tcp://127.0.0.1:8786"
        ) from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise ClusterError(
                f"--scheduler {address}: it has no workers; start some with `dask worker {address} --nthreads 1`"
            )
        yield client


def _for_workers(request: Request) -> Request:
    """The request as another process can use it: nothing that lives in this one, folders by their whole path."""
    checkpoint = request.checkpoint
    if checkpoint is not None and Path(checkpoint).expanduser().is_dir():
        checkpoint = str(Path(checkpoint).expanduser().resolve())
    return replace(request, checkpoint=checkpoint, progress=None)


@dataclass
class _Job(WorkerPlugin):
    """What a worker must know of the run; Dask gives it to every worker, also to those that join later."""

    name: str
    plan: Plan  # without its denoiser
    path: Path

    def setup(self, worker: Any) -> None:
        self.lock = threading.Lock()  # one unit at a time: the seam changes the model while it is open
        self.number = number_of(str(worker.name))
        self.ended = False
        self.built: Plan | None = None
        self.writer: store.Writer | None = None

    def teardown(self, worker: Any) -> None:
        self.ended = True
        if self.lock.acquire(blocking=False):  # else the unit that is still running closes it at its end
            self.close()
            self.lock.release()

    def ready(self) -> tuple[Plan, store.Writer]:
        """The plan with this worker's own denoiser, loaded on first use, and its writer.

        Raises CheckpointError for other weights.
        """
        if self.built is None:
            request = self.plan.request
            if isinstance(request.denoiser, str):
                request = replace(request, device=own_device(request.device, self.number))
            denoiser = request.load()
            if dict(denoiser.checkpoint) != dict(self.plan.config["checkpoint"]):
                raise CheckpointError(
                    f"a worker loaded other weights than this run uses: {dict(denoiser.checkpoint)} instead of "
                    f"{self.plan.config['checkpoint']}; give every worker the same checkpoint"
                )
            if prepare := optional_parts(denoiser).prepare:  # encode all prompts at once
                prepare(self.plan.samples)
            self.built = replace(self.plan, denoiser=moved(denoiser, request.moved)[0])
        if self.writer is None:
            self.writer = store.Writer(self.path).__enter__()
        return self.built, self.writer

    def close(self) -> None:
        """Stop the writer; the next unit gets a fresh one."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with suppress(store.WriteError):  # already raised where it happened
                writer.__exit__(None, None, None)


def number_of(worker: str) -> int | None:
    """The number in the name of a worker (`3`, `SLURMCluster-3`, `tcp://...-3`); None when it has none."""
    match = re.fullmatch(r"(?:.*-)?(\d+)", worker)
    return int(match[1]) if match else None


def _run_unit(name: str, unit: int) -> Mapping[str, Any] | None:
    """On a worker: run one unit. Returns None when it is complete, the claim when another living process holds it."""
    worker = get_worker()
    job = worker.plugins[name]
    assert isinstance(job, _Job)
    reported = 0.0

    def report(step: int) -> None:
        nonlocal reported
        if (now := time.monotonic()) - reported > REPORT_SECONDS:
            reported = now
            worker.log_event(name, (unit, step + 1))

    with job.lock:
        plan, writer = job.ready()
        try:
            with writer.unit(unit, again=False) as buffer:
                run_unit(plan, plan.samples[writer.samples(unit)], buffer, report)
        except store.CompleteError:
            return None
        except store.ClaimError as held:
            return held.holder or {}
        except BaseException:
            job.close()
            raise
        finally:
            if job.ended:
                job.close()
    return None


def _drive(client: Client, name: str, units: Sequence[int], steps: int, progress: Progress | None) -> None:
    """Submit every unit, hand on progress, come back at the end to units that were held; the first error ends it."""
    done = dict.fromkeys(units, 0)
    held: dict[int, Mapping[str, Any]] = {}

    def on_event(event: tuple[float, tuple[int, int]]) -> None:
        unit, step = event[1]
        report(unit, step)

    def report(unit: int, step: int) -> None:
        done[unit] = max(done[unit], step)
        if progress:
            progress(sum(done.values()), steps * len(done))

    def submit(unit: int) -> Any:
        return client.submit(_run_unit, name, unit, key=f"{name}-{unit}-{uuid.uuid4().hex}", pure=False)

    client.subscribe_topic(name, on_event)
    futures = {submit(unit): unit for unit in units}
    finished = as_completed(futures)
    try:
        for future in finished:
            unit = futures.pop(future)
            holder = future.result()
            if holder is None:
                report(unit, steps)
            else:
                held[unit] = holder
            if held and not futures:
                store.say_waiting(list(held), next(iter(held.values())))
                time.sleep(CLAIMED_SECONDS)
                futures = {submit(unit): unit for unit in held}
                held.clear()
                finished.update(futures)
    except KilledWorker as error:
        raise WorkerDied(
            f"unit {unit} cost {error.allowed_failures + 1} workers their lives; they were killed, most likely for "
            "want of memory: use fewer workers or a smaller batch"
        ) from None
    finally:
        client.unsubscribe_topic(name)
        client.cancel(list(futures))
