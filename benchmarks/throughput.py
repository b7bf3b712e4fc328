"""How much faster several processes make one run than one does: the embedded DiT, started as a user starts it.

Every process is `trace run ... --out RUN --resume` with one thread. Samples a second are counted between the first and
the last unit that is committed, so that loading the model is left out; the time of everything is printed too. The
numbers of processes are tried in turn, round after round. On a machine with fewer idle cores than processes the ratio
says what the cores have left, not what the program can do.

    python -m benchmarks.throughput                      # 1 and 2 processes, 24 samples x 20 steps
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH = 2


def run(folder: Path, processes: int, samples: int, steps: int) -> tuple[float, float]:
    """(samples a second between the first and the last commit, seconds of everything) of one run."""
    out = folder / "run"
    command = [
        sys.executable, "-m", "tracer.cli.main", "run", "--model", "dit", "--mask", "R4S32", "--device", "cpu",
        "--samples", str(samples), "--steps", str(steps), "--batch-size", str(BATCH), "--record", "norms,latents",
        "--out", str(out), "--resume",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(processes)
    ]
    if any(worker.wait() for worker in workers):
        raise SystemExit(f"a process failed; try it yourself: {' '.join(command)}")
    seconds = time.perf_counter() - begun
    commits = sorted(file.stat().st_mtime for file in (out / "trace.zarr" / "status").glob("c.*"))
    return BATCH * (len(commits) - 1) / (commits[-1] - commits[0]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--root", type=Path, help="a folder on the disk to be tried; default: a temporary one")
    typed = parser.parse_args()
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in typed.processes}
    load = os.getloadavg()[0]
    for _ in range(typed.rounds):
        for count, measured in found.items():
            with tempfile.TemporaryDirectory(dir=typed.root) as folder:
                measured.append(run(Path(folder), count, typed.samples, typed.steps))
    print(f"{os.cpu_count()} cores, load {load:.1f} before; {typed.samples} samples x {typed.steps} steps")
    base = statistics.median(rate for rate, _ in next(iter(found.values())))
    for count, measured in found.items():
        rate, seconds = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{count:3} processes: {rate:6.2f} samples/s, x{rate / base:.2f}; {seconds:.0f} s with loading")


if __name__ == "__main__":
    main()
