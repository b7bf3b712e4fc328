"""How cost grows: exponents in steps, samples, lanes and tokens, and memory over the steps of a long run."""

from __future__ import annotations

import contextlib
import io
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import median_seconds
from benchmarks.rows.arms import GRAPHS, SMALL_GRAPHS, run_plans
from benchmarks.rows.cases import CPU, case, mask
from benchmarks.table import Line, Settings, line, slope
from interventions import attention_mass
from tracer.run import complete, prepare

LINEAR, SQUARE = 1.1, 2.1
"""Limits of exponents that are 1 and 2 where nothing is lost."""
LEAK = 0.02
"""How much of the memory of step 10 may be added until the last one."""


def exponents(settings: Settings) -> Iterator[Line]:
    """The slope of the logarithms of size and time, in every round."""
    tried = replace(case("dit", settings, 4), samples=2)
    graph = mask(settings)
    graphs = (SMALL_GRAPHS if settings.smoke else GRAPHS)[:5]

    def unit(samples: int = 2, steps: int = 4, arms: tuple[str, ...] = (graph,)) -> Callable[[], None]:
        planned = replace(tried, samples=samples).plan(arms, steps=steps)
        return lambda: run_plans([planned])

    def mass(tokens: int) -> Callable[[], object]:
        query, key = torch.randn(2, 1, 2, tokens, 64)
        return lambda: attention_mass(query, key)

    sizes = (16, 32) if settings.smoke else (1024, 2048, 4096)
    yield _exponent("steps", {n: unit(steps=n) for n in (4, 8, 16)}, LINEAR, settings)
    yield _exponent("samples", {n: unit(samples=n) for n in (2, 4, 8)}, LINEAR, settings)
    yield _exponent("lanes", {1 + n: unit(arms=graphs[:n]) for n in (1, 2, 5)}, LINEAR, settings)
    yield _exponent("tokens, of mass", {n: mass(n) for n in sizes}, SQUARE, settings)


def _exponent(name: str, works: Mapping[int, Callable[[], object]], limit: float, settings: Settings) -> Line:
    with torch.no_grad():
        next(iter(works.values()))()
        found = [
            slope(list(works), [median_seconds(work, CPU, 1, settings.clock) for work in works.values()])
            for _ in range(settings.rounds)
        ]
    return line(f"exponent of time in {name}", found, limit, unit="", note="over " + ", ".join(map(str, works)))


def leak(settings: Settings) -> Iterator[Line]:
    """Resident memory of the process after the last step over that after step 10, everything recorded."""
    import psutil

    steps = 12 if settings.smoke else 120
    tried = replace(case("dit", settings, steps), samples=1)
    planned = tried.plan([mask(settings)], ("latents", "mass", "sinks"), steps=steps)
    process, held = psutil.Process(), []
    folder = Path(tempfile.mkdtemp(dir=settings.root))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            path = prepare(planned, folder / "run")
            complete(planned, path, progress=lambda *_: held.append(process.memory_info().rss / 2**20))
    finally:
        shutil.rmtree(folder)
    grown = statistics.median(held[-3:]) / statistics.median(held[9:12]) - 1
    note = f"{held[10]:.0f} MiB after step 10, {held[-1]:.0f} MiB at the end"
    yield line(f"memory added between step 10 and step {steps}", [grown], LEAK, unit="of it", note=note)
