"""Timing and peak memory of pieces of work that are compared with one another, and the table they make.

All pieces of a comparison are timed in the same process, in turn, round after round, so that a slow or busy machine
slows all of them; what counts is the ratio to the stated baseline. Medians, after a warm-up; CUDA events on a GPU.
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]
Opened = Callable[[], AbstractContextManager[Work]]
"""Sets a piece of work up (untimed) and hands out the call that is timed."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds that passed, or that the processors spent on this process, all of its threads: for machines that are busy."""


@dataclass(frozen=True)
class Row:
    """One piece of work: median milliseconds of a call, peak MiB beyond what was there, both also over the baseline."""

    group: str
    work: str
    baseline: str
    milliseconds: float | None
    ratio: float | None
    ratio_low: float | None
    """Quartiles of the ratio over rounds."""
    ratio_high: float | None
    mib: float | None
    mib_ratio: float | None
    note: str = ""


def compare(
    group: str, works: Mapping[str, Opened], baseline: str, device: torch.device, *, rounds: int = 5, calls: int = 10,
    warmup: int = 2, notes: Mapping[str, str] | None = None, clock: Clock = time.perf_counter,
) -> list[Row]:  # fmt: skip
    """Time every piece of work in turn, `rounds` times `calls` calls each. Running out of memory is a result too."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for name, opened in works.items():
            if name in failed:
                continue
            try:
                with opened() as work:
                    for _ in range(warmup):
                        work()
                    if turn == 0:
                        peaks[name] = peak(work, device)
                    seconds[name].append(median_seconds(work, device, calls, clock))
            except torch.OutOfMemoryError:
                failed[name] = "out of memory"
                torch.cuda.empty_cache()
    return [_row(group, name, baseline, seconds, peaks, dict(notes or {}) | failed) for name in works]


def _row(
    group: str, name: str, baseline: str, seconds: Mapping[str, list[float]], peaks: Mapping[str, float | None],
    notes: Mapping[str, str],
) -> Row:  # fmt: skip
    own, base = seconds[name], seconds[baseline]
    if not own or not base:
        return Row(group, name, baseline, None, None, None, None, None, None, notes.get(name, ""))
    low, middle, high = quartiles([a / b for a, b in zip(own, base, strict=False)])
    mib, base_mib = peaks.get(name), peaks.get(baseline)
    return Row(
        group, name, baseline, 1e3 * statistics.median(own), middle, low, high, mib,
        mib / base_mib if mib is not None and base_mib else None, notes.get(name, ""),
    )  # fmt: skip


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile) as values that were measured; of three or fewer the extremes."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return ordered[quarter], statistics.median(ordered), ordered[-1 - quarter]


def plain(work: Work) -> Opened:
    """A piece of work that needs no setting up."""

    @contextmanager
    def opened() -> Iterator[Work]:
        yield work

    return opened


def median_seconds(work: Work, device: torch.device, calls: int, clock: Clock = time.perf_counter) -> float:
    """Median time of a call; on CUDA between events, so that queueing ahead is counted as it happens."""
    if device.type != "cuda":
        times = []
        for _ in range(calls):
            start = clock()
            work()
            times.append(clock() - start)
        return statistics.median(times)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks))


def peak(work: Work, device: torch.device) -> float | None:
    """MiB the allocator held at most during one call, beyond what it held before; None on a CPU (`rows/memory.py`)."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {"device": device.type, "name": name, "torch": torch.__version__, "threads": torch.get_num_threads()}


def report(rows: Sequence[Row], device: torch.device, out: Path | None, **extra: Any) -> None:
    """Print the table and, with `out`, write everything as JSON."""
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            print(f"\n{group}  (x: ratio to `{row.baseline}`, quartiles over rounds)")
        if row.milliseconds is None:
            print(f"  {row.work:<44} {row.note}")
            continue
        memory = "" if row.mib is None else f"{row.mib:10.1f} MiB"
        memory += "" if row.mib_ratio is None else f"  x{row.mib_ratio:.3g}"
        spread = f"[{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
        print(f"  {row.work:<44}{row.milliseconds:10.3f} ms  x{row.ratio:.3f} {spread}{memory}  {row.note}")
    if out is not None:
        content = {"machine": machine(device), "rows": [asdict(row) for row in rows], **extra}
        out.write_text(json.dumps(content, indent=2) + "\n")
        print(f"\n{out}")
