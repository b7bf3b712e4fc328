"""Run as a program: write a store in a child process, kill it at a random moment, resume, until done.

The moment is an amount of processor time, or a number of files written: the second finds every gap of the protocol
on any machine. Forks before zarr has started its threads, so that a round costs milliseconds, not an import. Prints,
as JSON, how many children were killed and after which of them a flagged sample (or cell) did not hold the truth.

    python -m tests.tracer.kill_loop PATH SEED KILLS protocol|flag-first run|sweep time|writes
"""

import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from tests.builders import runs_by_hand, sweeps_by_hand
from tracer.store import shards, writer

BUILDERS = {"run": runs_by_hand, "sweep": sweeps_by_hand}


def flag_first(path: Path, arrays: object, unit: int, part: slice, disk: object) -> None:
    """The wrong order: flag the unit, then write its shards."""
    CLEAR(path, arrays, unit, part, disk)
    shards.open_store(path, "r+")["status"][..., part] = 1


CLEAR = writer.clear_unit


def die_after_writes(count: int) -> None:
    """SIGKILL this process as soon as it has written so many files into a store."""
    original, written = LocalStore.set, itertools.count(1)

    async def set_and_die(self: LocalStore, *arguments: Any) -> None:
        await original(self, *arguments)
        if next(written) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    LocalStore.set = set_and_die  # type: ignore[method-assign]


def die_in_time(rng: random.Random) -> Callable[[], object]:
    """The kernel ends this process once it has computed so long: processor time, so that a busy machine changes
    nothing.
    """
    seconds = rng.uniform(0.01, 0.08)
    return lambda: signal.setitimer(signal.ITIMER_PROF, seconds)


def die_in_writes(rng: random.Random) -> Callable[[], object]:
    count = rng.randint(1, 12)
    return lambda: die_after_writes(count)


MOMENTS = {"time": die_in_time, "writes": die_in_writes}


def forked(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """Exit status of a child that does this, or the number of the signal that ended it, negative."""
    child = os.fork()
    if child == 0:
        prepare()
        os._exit(int(bool(work())))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(path: Path, seed: int, kills: int, builder: Any, moment: Callable[[random.Random], Any]) -> None:
    rng, killed, wrong = random.Random(seed), 0, []
    while killed < kills:
        status = forked(lambda: builder.run_units(path), moment(rng))
        killed += status in (-signal.SIGKILL, -signal.SIGPROF)
        if forked(lambda: builder.lies(path)):
            wrong.append(killed)
        if status == 0:
            break
    print(json.dumps({"killed": killed, "wrong": wrong}))


if __name__ == "__main__":
    if sys.argv[4] == "flag-first":
        writer.clear_unit = flag_first
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), BUILDERS[sys.argv[5]], MOMENTS[sys.argv[6]])
