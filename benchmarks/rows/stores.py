"""Reading a large store back: the growth analysis as its command, and single steps and layers of all samples.

    python -m benchmarks.rows.stores RUN ROUNDS CLOCK    # seconds of the queries of a run, as JSON

The store is made once for all rows (`benchmarks/stores.py`), 1000 samples by 250 steps, on the disk of `--root`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from benchmarks.measure import CLOCKS
from benchmarks.processes import TRACE, launch
from benchmarks.table import Line, Settings, line

SAMPLES, STEPS = 1000, 250
RECORD = ("latents", "mass", "sinks")
SECONDS, GIB, QUERY = 10.0, 2.0, 0.3
"""Limits of the growth analysis, and of a query in seconds."""
NEEDED = 12 * 2**30
"""Bytes that must be free for the store."""


@cache
def folder(root: Path | None) -> tempfile.TemporaryDirectory:
    """Where the store lies until the program ends."""
    return tempfile.TemporaryDirectory(dir=root)


@cache
def store(root: Path | None, samples: int, steps: int) -> Path:
    """The run, made when it is first asked for. Raises RuntimeError where the disk has no room."""
    from benchmarks.stores import make_store

    place = Path(folder(root).name)
    free = shutil.disk_usage(place).free
    if samples == SAMPLES and free < NEEDED:
        raise RuntimeError(
            f"{free / 2**30:.0f} GiB are free, the store needs {NEEDED / 2**30:.0f}: name another disk with --root DIR"
        )
    return make_store(place / f"{samples}x{steps}", samples, steps, RECORD)


def run_of(settings: Settings) -> Path:
    """The store of these settings."""
    if settings.store is not None:
        return settings.store.resolve()
    return store(settings.root, *((8, 6) if settings.smoke else (SAMPLES, STEPS)))


def growth(settings: Settings) -> Iterator[Line]:
    """`trace analyze growth` in a process of its own: seconds, and memory at its peak."""
    run = run_of(settings)
    command = [*TRACE, "analyze", "growth", str(run)]
    costs = [launch(command, run.parent, settings.threads) for _ in range(min(3, settings.rounds))]
    work = f"`trace analyze growth`, {size(run)} with latents"
    seconds = [cost.seconds[settings.clock_name] for cost in costs]
    note = ", ".join(f"{clock} {spent:.1f} s" for clock, spent in costs[0].seconds.items()) + " in the first round"
    yield line(work, seconds, SECONDS, unit="s", note=note)
    yield line(f"{work}, peak memory", [cost.gib for cost in costs], GIB, unit="GiB")


def size(run: Path) -> str:
    """Samples x steps of a run."""
    import tracer

    sizes = tracer.open_run(run)["metrics"].sizes
    return f"{sizes['sample']} x {sizes['step']}"


def query(settings: Settings) -> Iterator[Line]:
    """One step of a state, one layer of attention mass, of all samples; the run is open already."""
    run = run_of(settings)
    words = [str(run), str(settings.rounds), settings.clock_name]
    cost = launch([sys.executable, "-m", "benchmarks.rows.stores", *words], threads=settings.threads)
    for work, seconds in json.loads(cost.output.splitlines()[-1]).items():
        yield line(f"{work} of all samples out of a store", seconds, None if "all steps" in work else QUERY, unit="s")


def time_queries(path: str, rounds: int, clock: str) -> dict[str, list[float]]:
    """Seconds of each query at another step or layer in every round; the first opens what a first query opens."""
    import tracer

    run = tracer.open_run(path)
    delta, mass, now = run["trajectory/delta"], run["attention/mass_layer"], CLOCKS[clock]
    queries = {
        "one step of the error": lambda k: delta.isel(arm=1, step=k * delta.sizes["step"] // rounds),
        "one layer of attention mass at one step": lambda k: mass.isel(
            arm=1, step=k * mass.sizes["step"] // rounds, layer=k % mass.sizes["layer"]
        ),
        "one layer of attention mass at all steps": lambda k: mass.isel(arm=1, layer=k % mass.sizes["layer"]),
    }
    found: dict[str, list[float]] = {work: [] for work in queries}
    for k in range(rounds):
        for work, asked in queries.items():
            begun = now()
            asked(k).values  # noqa: B018  (read now)
            found[work].append(now() - begun)
    return found


if __name__ == "__main__":
    print(json.dumps(time_queries(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
