"""What the commands of a study will take together: seconds, disk, memory; asked of every command by its --dry-run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.cli.reproduction.lines import is_priced
from tracer.cli.terminal import human_bytes, human_seconds


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes on disk of all commands together, and the memory of the largest."""

    seconds: float
    disk: int
    memory: int
    commands: int
    unpriced: tuple[str, ...]
    """The other commands, which come on top."""

    def __str__(self) -> str:
        """The cost in one sentence."""
        on_top = f"; on top of it {', '.join(self.unpriced)}" if self.unpriced else ""
        return (
            f"about {human_seconds(self.seconds)}, at most {human_bytes(self.disk)} on disk, about "
            f"{human_bytes(self.memory)} of memory for its {self.commands} runs and sweeps{on_top}"
        )


def cost(lines: Iterable[list[str]], run: Callable[[list[str]], object], tell: Callable[[int, int], None]) -> Cost:
    """Ask every command that says it; `run` runs a command of `trace`, `tell` hears how many have answered."""
    lines = list(lines)
    priced = [line for line in lines if is_priced(line)]
    answers: list[dict[str, Any]] = []
    made: dict[Path, dict[str, Any]] = {}
    for line in priced:
        tell(len(answers), len(priced))
        said = io.StringIO()
        with redirect_stdout(said):
            run([*line, *_expected(line, made), "--dry-run", "--json"])
        answers.append(json.loads(said.getvalue().strip().splitlines()[-1]))
        if "--out" in line:
            made[Path(line[line.index("--out") + 1])] = answers[-1]
    tell(len(priced), len(priced))
    return Cost(
        sum(answer["seconds"] for answer in answers),
        sum(answer["disk_bytes"] for answer in answers),
        max((answer["memory_bytes"] for answer in answers), default=0),
        len(priced),
        tuple(dict.fromkeys(line[0] for line in lines if not is_priced(line))),
    )


def _expected(line: list[str], made: Mapping[Path, dict[str, Any]]) -> list[str]:
    """For scores of a run that the commands before are still to make: how many pictures it will hold."""
    if line[0] != "score" or (run := Path(line[1])).exists():
        return []
    answer = next((made[folder] for folder in (run, *run.parents) if folder in made), None)
    if answer is None:
        return []
    one = answer["runs"][0] if "runs" in answer else answer
    sizes = (len(one["arms"]), one["samples"], *one["image_size"])
    return ["--expect", "x".join(map(str, sizes))]
