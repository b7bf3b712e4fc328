"""Many plain processes on one run, as on a cluster: machines with clocks of their own, killed and stopped at random.

Every process is told `--out RUN --resume` and nothing else. The states are tiny, the protocol is the real one: files,
locks, claims, heartbeats, syncs, flags. Processes are spread over pretended machines, each with its clock hours off, so
that leases decide between them and process identities within one. When all have ended, every value is compared bit for
bit with the same run made by one undisturbed process, and the run is verified.

    python -m benchmarks.many_processes                        # 32 processes, 1000 samples x 250 steps: some minutes
    python -m benchmarks.many_processes --processes 8 --samples 40 --steps 10 --kills 5 --stalls 1 --lease 5
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer import run, store
from tracer.plan import plan
from tracer.request import Request
from tracer.store import claims

LAM = np.geomspace(10, 0.1, 16).reshape(1, 4, 4)
HOURS = 12.0
"""Clocks are off by up to so much, either way."""


@dataclass(frozen=True)
class Setting:
    """What is simulated; lease in seconds."""

    processes: int = 32
    machines: int = 8
    samples: int = 1000
    steps: int = 250
    batch_size: int = 1
    kills: int = 60
    stalls: int = 6
    lease: float = 20.0
    seed: int = 0

    @property
    def units(self) -> int:
        """Units of the run."""
        return -(-self.samples // self.batch_size)


@dataclass(frozen=True)
class Outcome:
    """What happened.

    statuses: how many processes ended with which. taken_over: units taken from others; from_the_living: of these, from
    a process that was running. wrong: arrays in which a sample that is flagged complete differs from the undisturbed
    run.
    """

    taken_over: int
    from_the_living: int
    statuses: Counter[int]
    whole: bool
    wrong: tuple[str, ...]
    launches: int
    seconds: float


def masked(x: np.ndarray, alpha: float, sigma: float, *, clean: Callable) -> np.ndarray:
    return 0.95 * clean(x, alpha, sigma) + 0.02


def requested(setting: Setting, out: Path) -> Request:
    """The run, as every process asks for it."""
    clean = gaussian.gaussian_denoiser(LAM)
    denoiser = Analytic(clean, functools.partial(masked, clean=clean), shape=(1, 4, 4), image_size=(4, 4), fraction=0.4)
    return Request(
        denoiser, "R1S0", samples=setting.samples, steps=setting.steps, batch_size=setting.batch_size,
        record="norms,latents", floor=False, out=out, resume=True,
    )  # fmt: skip


def work(setting: Setting, out: Path) -> None:
    """One process from its start to the end of the run."""
    checked = plan(requested(setting, out))
    run.execute(checked, run.prepare(checked), lease=setting.lease)


def on_machine(number: int, skew: float, events: Path) -> None:
    """Let this process believe that it is on machine `number`, whose clock is off by `skew` seconds."""
    identity, clock, take, look = claims._identity, time.time, claims.claim, claims.live_claim
    taking = threading.local()

    def claim(directory: Path, unit: int, lease: float) -> str:
        taking.unit = unit
        try:
            return take(directory, unit, lease)
        finally:
            taking.unit = None

    def live_claim(directory: Path, unit: int, lease: float) -> Any:
        held = look(directory, unit, lease)
        left = claims.read_json(directory / f"{unit:06d}.json")
        if held is None and left is not None and getattr(taking, "unit", None) == unit:  # under the lock: a take-over
            state = claims._state(left["pid"])
            same = bool(state) and state[19] == left["started"]
            with events.open("a") as file:
                file.write(f"unit {unit} taken from {'living' if same and state[0] not in 'TtZX' else 'dead'}\n")
        return held

    claims._identity = lambda pid: (f"machine-{number}", identity(pid)[1])
    claims.claim = claim
    claims.live_claim = live_claim
    time.time = lambda: clock() + skew


def forked(work: Callable[[], object]) -> int:
    """The pid of a child that does this and exits with 0, or prints what was raised and exits with 1."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def disturb(setting: Setting, out: Path, start: Callable[[int], int]) -> Counter[int]:
    """Start all processes; kill and stop some at random points of the run's progress, start the killed anew; wait for
    all. Returns how many ended with which exit status.
    """
    rng, statuses, waking = random.Random(setting.seed), Counter[int](), dict[int, float]()
    blows = ["kill"] * setting.kills + ["stall"] * setting.stalls
    rng.shuffle(blows)
    moments = sorted(rng.uniform(0, setting.units) for _ in blows)
    places = {start(number): number for number in range(setting.processes)}
    while places:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            number, code = places.pop(child), os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL:
                places[start(number)] = number
            else:
                statuses[code] += 1
            continue
        now = time.monotonic()
        for stopped in [pid for pid, when in waking.items() if when < now]:
            del waking[stopped]
            os.kill(stopped, signal.SIGCONT)
        running = [pid for pid in places if pid not in waking]
        if moments and running and committed(out) >= moments[0]:
            moments.pop(0)
            victim = rng.choice(running)
            if blows.pop() == "kill":
                os.kill(victim, signal.SIGKILL)
            else:
                os.kill(victim, signal.SIGSTOP)
                waking[victim] = now + 1.5 * setting.lease
        time.sleep(0.02)
    return statuses


def committed(out: Path) -> int:
    """Units that are flagged."""
    flags = out / "trace.zarr" / "status"
    return len(list(flags.glob("c.*"))) if flags.exists() else 0


def differing(one: Path, two: Path) -> tuple[str, ...]:
    """Arrays in which the samples that are flagged complete in the second are not those of the first, bit for bit."""
    wanted, found = (zarr.open_group(path / "trace.zarr", mode="r") for path in (one, two))
    complete = np.flatnonzero((found["status"][:] == store.STATUS_COMPLETE).all(axis=0))
    wrong = []
    for name, array in wanted.members(max_depth=None):
        if isinstance(array, zarr.Array) and "sample" in (names := array.metadata.dimension_names):
            axis = names.index("sample")
            pair = [group[name][:].take(complete, axis) for group in (wanted, found)]
            if not np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f"):
                wrong.append(name)
    return tuple(wrong)


def simulate(setting: Setting, folder: Path) -> Outcome:
    """Make the run in `folder` by many processes and by one, and compare."""
    events, rng = folder / "events", random.Random(setting.seed + 1)
    skews = [rng.uniform(-HOURS, HOURS) * 3600 for _ in range(setting.machines)]

    def start(number: int) -> int:
        machine = number % setting.machines

        def begin() -> None:
            on_machine(machine, skews[machine], events)
            work(setting, folder / "shared")

        return forked(begin)

    begun = time.monotonic()
    statuses = disturb(setting, folder / "shared", start)  # before anything here starts a thread
    seconds = time.monotonic() - begun
    work(setting, folder / "alone")
    lines = events.read_text().splitlines() if events.exists() else []
    return Outcome(
        len(lines), sum("living" in line for line in lines), statuses,
        store.finalize(folder / "shared").whole, differing(folder / "alone", folder / "shared"),
        len(list((folder / "shared" / "launches").iterdir())), seconds,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in vars(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--root", type=Path, help="a folder on the disk to be tried; default: a temporary one")
    typed = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=typed.pop("root")) as folder:
        setting = Setting(**typed)
        outcome = simulate(setting, Path(folder))
    print(setting)
    print(
        f"{outcome.seconds:.0f} s; {setting.kills} kills, {setting.stalls} stalls of {1.5 * setting.lease:g} s\n"
        f"units taken over {outcome.taken_over}, of these from the living {outcome.from_the_living}\n"
        f"exit statuses {dict(outcome.statuses)}; launch records {outcome.launches}\n"
        f"whole {outcome.whole}; arrays with a wrong value {len(outcome.wrong)} {' '.join(outcome.wrong)}"
    )


if __name__ == "__main__":
    main()
