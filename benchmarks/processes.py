"""What a command costs as a process of its own: seconds, processor seconds, peak memory, time to its first output.

A small launcher starts the command: a process begins with the peak of the one that started it on its books, so a large
one would hide the memory of what it starts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
TRACE = (sys.executable, "-m", "tracer.cli.main")
"""The command `trace` of this checkout."""


@dataclass(frozen=True)
class Cost:
    """Seconds by clock, "wall" or "cpu", until the end (children included) and until the first output; peak GiB."""

    seconds: Mapping[str, float]
    first_output: Mapping[str, float]
    gib: float
    output: str


def launch(command: Sequence[str], folder: Path | None = None, threads: int | None = None) -> Cost:
    """Run a command from a folder with this checkout's packages. Raises RuntimeError with its output if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.NamedTemporaryFile() as file:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), file.name, *command],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
        return Cost(**json.loads(Path(file.name).read_text()), output=done.stdout)


def peak_mib() -> float:
    """MiB of this process at most so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def _watch(file: str, command: Sequence[str]) -> int:
    """Run the command, pass its output on, write its cost to the file; returns its exit status."""
    begun = time.perf_counter()
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert worker.stdout is not None
    process, first = psutil.Process(worker.pid), None
    while part := os.read(worker.stdout.fileno(), 65536):
        if first is None:
            used = process.cpu_times()
            first = {"wall": time.perf_counter() - begun, "cpu": used.user + used.system}
        sys.stdout.buffer.write(part)
    _, status, spent = os.wait4(worker.pid, 0)
    seconds = {"wall": time.perf_counter() - begun, "cpu": spent.ru_utime + spent.ru_stime}
    worker.returncode = os.waitstatus_to_exitcode(status)
    gib = spent.ru_maxrss / 2**30 if sys.platform == "darwin" else spent.ru_maxrss / 2**20
    Path(file).write_text(json.dumps({"seconds": seconds, "first_output": first or seconds, "gib": gib}))
    return worker.returncode


if __name__ == "__main__":
    sys.exit(_watch(sys.argv[1], sys.argv[2:]))
