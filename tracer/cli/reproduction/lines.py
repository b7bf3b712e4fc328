"""Command lines of a study as they are run: going on where they stopped, in small, with the weights they ask for."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from math import log2
from pathlib import Path

from tracer.cli.reproduction.recipe import Study

PRICED = {("run",), ("counterfactual",), ("sweep", "classify"), ("sweep", "retrieve"), ("score",)}
"""Commands that say beforehand what they cost; the others read what these have made."""
REHEARSED, FEWEST_STEPS = {"--samples": 3, "--paths": 2, "--forks": 2, "--mask-seeds": 1}, 5
_TINY = {
    "sweep classify": "--limit 24",
    "sweep retrieve": "--limit 16",
    "sweep figure1": "--images 24 --pairs 16 --one-pass 3 --samples 3 --contrast 3 --steps 5"
    " --mask-seeds 1 --run-seeds 1",
}
"""What makes small what has no samples; the last of an option that is given twice counts."""


def commands(
    study: Study, out: Path, *, small: bool = False, weights: Mapping[str, str] | None = None
) -> list[list[str]]:
    """What is typed after `trace`; what exists is resumed, not repeated. `small` is a rehearsal.

    weights: metric -> file or folder, handed to every line that measures this metric.
    """
    lines = [rehearsal(line) if small else line for line in study.lines(out)]
    return [_resumed([*line, *_weighted(line, weights or {})]) for line in lines]


def matches(word: str) -> list[str]:
    """`runs/fork*` -> what exists under these names now; a word without a star, or that nothing fits, is itself."""
    return sorted(glob.glob(word)) or [word] if "*" in word else [word]


def is_priced(line: list[str]) -> bool:
    """Whether this command takes --dry-run."""
    return tuple(line[:1]) in PRICED or tuple(line[:2]) in PRICED


def _resumed(line: list[str]) -> list[str]:
    """With --resume where its output is there; the commands that have none keep what is there by themselves."""
    if not is_priced(line) or "--out" not in line:
        return line
    return [*line, "--resume"] if Path(line[line.index("--out") + 1]).exists() else line


def _weighted(line: list[str], weights: Mapping[str, str]) -> Iterable[str]:
    """`--weights METRIC=PATH` for the metrics that a line names."""
    if line[0] != "score" and line[:2] != ["analyze", "quality"]:
        return
    named = {line[place + 1] for place, word in enumerate(line[:-1]) if word == "--metric"}
    for metric, path in weights.items():
        if metric in named:
            yield from ("--weights", f"{metric}={path}")


def rehearsal(line: list[str]) -> list[str]:
    """The same command in small: `REHEARSED` samples, paths and forks, few steps; folders are named by these steps."""
    line = [re.sub(r"T(\d{4})$", lambda match: f"T{_few(match[1]):04d}", word) for word in line]
    steps = line[line.index("--steps") + 1] if "--steps" in line else ""
    for place, word in enumerate(line[:-1]):
        if word in REHEARSED:
            line[place + 1] = str(REHEARSED[word])
        elif word in ("--steps", "--counts"):
            line[place + 1] = ",".join(str(_few(count)) for count in line[place + 1].split(","))
        elif word == "--arm" and steps.isdecimal():
            line[place + 1] = re.sub(r"^steps(\d+)$", lambda arm: f"steps{_share(arm[1], steps)}", line[place + 1])
    return [*line, *_TINY.get(" ".join(line[:2]), "").split()]


def _few(count: str) -> int:
    """50 -> 5, 100 -> 6, 250 -> 8, 500 -> 10, 1000 -> 11: different numbers of steps stay different."""
    return max(FEWEST_STEPS, round(FEWEST_STEPS + 1.5 * log2(int(count) / 50)))


def _share(count: str, steps: str) -> int:
    """What `count` of `steps` is of the rehearsal's steps, rounded up: 24 and 16 of 48 are 3 and 2 of 5."""
    return -(-int(count) * _few(steps) // int(steps))
