"""The table of speed and memory: every row with its limit, on a CPU. Exit status 1 when a limit is exceeded or a row
fails.

    python -m benchmarks --list                              # the rows
    python -m benchmarks --out table.json --markdown table.md
    python -m benchmarks --only mass-dit,kernel --cpu-time   # on a busy machine: CPU time, one thread
    python -m benchmarks --smoke                             # tiny networks; numbers that mean nothing, not held

Ratios are paired: baseline and work in turn, in the same process and round. Every line is printed and saved as soon as
it is measured. Run it on an otherwise idle machine, or with --cpu-time.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks.measure import CLOCKS
from benchmarks.rows import ROWS
from benchmarks.table import Line, Settings, machine, printed, save_json, save_markdown
from tracer.allocator import collect_less_often, keep_freed_memory


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the rows and what they measure")
    parser.add_argument("--only", metavar="ROW,...", help="these rows; default: all but `seam` and `suite`")
    parser.add_argument("--rounds", type=int, default=5, help="of every paired comparison")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time instead of wall time; one thread if unset")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON, anew after every line")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the same as a page with machine and date")
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder on the disk to measure; default: a temporary")
    parser.add_argument(
        "--store", type=Path, metavar="RUN", help="for growth and query: made by benchmarks.stores before"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny networks, one round; the numbers mean nothing")
    typed = parser.parse_args(arguments)
    named = typed.only.split(",") if typed.only else [name for name, row in ROWS.items() if row.default]
    if unknown := [name for name in named if name not in ROWS]:
        parser.error(f"--only {','.join(unknown)}: no such row; choose among {', '.join(ROWS)}")
    if typed.rounds < 1:
        parser.error(f"--rounds {typed.rounds}: at least 1")
    typed.rows = named
    return typed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows in turn."""
    typed = options(arguments)
    keep_freed_memory()  # as `trace` does; the bare loops have it too
    collect_less_often()
    if typed.list:
        for name, row in ROWS.items():
            print(f"{name:<13}{row.what}{'' if row.default else ' (only with --only)'}")
        return 0
    threads = typed.threads or (1 if typed.cpu_time else None)
    if threads:
        torch.set_num_threads(threads)
    clock = next(name for name in CLOCKS if (name == "cpu") == typed.cpu_time)
    settings = Settings(1 if typed.smoke else typed.rounds, typed.smoke, clock, typed.root, threads, typed.store)
    about = machine(settings)
    print(", ".join(f"{name} {value}" for name, value in about.items() if name != "git"), flush=True)
    found: dict[str, list[Line]] = {}
    failed, begun = [], time.perf_counter()
    for name in typed.rows:
        found[name], before = [], time.perf_counter()
        try:
            for line in ROWS[name].measure(settings):
                found[name].append(line)
                print(printed(name, line), flush=True)
                if typed.out:
                    save_json(typed.out, about, found)
                if typed.markdown:
                    save_markdown(typed.markdown, about, date.today().isoformat(), found)
        except Exception:
            failed.append(name)
            print(f"{name:<13}failed", flush=True)
            traceback.print_exc()
        print(f"{'':<13}{time.perf_counter() - before:.0f} s", flush=True)
    missed = [f"{name}: {line.work}" for name, lines in found.items() for line in lines if line.met is False]
    held = sum(line.limit is not None for lines in found.values() for line in lines)
    print(f"\n{held - len(missed)} of {held} limits met, {time.perf_counter() - begun:.0f} s")
    for text in [*missed, *(f"{name}: failed" for name in failed)]:
        print(f"  {text}")
    return int(bool(failed or (missed and not settings.smoke)))


if __name__ == "__main__":
    sys.exit(main())
