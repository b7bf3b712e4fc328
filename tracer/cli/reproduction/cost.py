"""What the commands of a study will take together: seconds, disk, memory; asked of every command by its --dry-run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
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
    for line in priced:
        tell(len(answers), len(priced))
        said = io.StringIO()
        with redirect_stdout(said):
            run([*line, "--dry-run", "--json"])
        answers.append(json.loads(said.getvalue().strip().splitlines()[-1]))
    tell(len(priced), len(priced))
    return Cost(
        sum(answer["seconds"] for answer in answers),
        sum(answer["disk_bytes"] for answer in answers),
        max((answer["memory_bytes"] for answer in answers), default=0),
        len(priced),
        tuple(dict.fromkeys(line[0] for line in lines if not is_priced(line))),
    )
