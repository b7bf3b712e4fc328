"""Run as a program: write a store in a child process, kill it with SIGKILL at a random moment, resume, until done.

Forks before zarr has started its threads, so that a round costs milliseconds, not an import. Prints, as JSON, how many
children were killed and after which of them a flagged sample (or cell) did not hold the truth.

    python -m tests.tracer.kill_loop PATH SEED KILLS protocol|flag-first run|sweep
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders import runs_by_hand, sweeps_by_hand
from tracer.store import shards, writer

BUILDERS = {"run": runs_by_hand, "sweep": sweeps_by_hand}


def flag_first(path: Path, arrays: object, unit: int, part: slice) -> None:
    """The wrong order: flag the unit, then write its shards."""
    CLEAR(path, arrays, unit, part)
    shards.open_store(path, "r+")["status"][..., part] = 1


CLEAR = writer.clear_unit


def die_after(seconds: float) -> None:
    """SIGKILL this process once it has computed so long: processor time, so that a busy machine changes nothing."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Exit status of a child that does this, or the number of the signal that ended it, negative."""
    child = os.fork()
    if child == 0:
        if kill_after is not None:
            threading.Thread(target=die_after, args=(kill_after,), daemon=True).start()
        os._exit(int(bool(work())))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(path: Path, seed: int, kills: int, builder: Any) -> None:
    rng, killed, wrong = random.Random(seed), 0, []
    while killed < kills:
        status = forked(lambda: builder.run_units(path), rng.uniform(0.03, 0.2))
        killed += status == -signal.SIGKILL
        if forked(lambda: builder.lies(path)):
            wrong.append(killed)
        if status == 0:
            break
    print(json.dumps({"killed": killed, "wrong": wrong}))


if __name__ == "__main__":
    if sys.argv[4] == "flag-first":
        writer.clear_unit = flag_first
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), BUILDERS[sys.argv[5]])
