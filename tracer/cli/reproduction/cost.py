"""What the commands of a study will take together: seconds, disk, memory; asked of every command by its --dry-run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass

import click

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
    priced, seconds, disk, memory = [line for line in lines if is_priced(line)], 0.0, 0, 0
    for done, line in enumerate(priced):
        tell(done, len(priced))
        said = io.StringIO()
        with redirect_stdout(said):
            run([*line, "--dry-run", "--json"])
        answer = json.loads(said.getvalue().strip().splitlines()[-1])
        seconds += answer["seconds"]
        disk += answer["disk_bytes"]
        memory = max(memory, answer["memory_bytes"])
    tell(len(priced), len(priced))
    rest = dict.fromkeys(line[0] for line in lines if not is_priced(line))
    return Cost(seconds, disk, memory, len(priced), tuple(rest))


def told(cost: Cost) -> None:
    """Print it, to stderr."""
    click.echo(f"would take  {cost}", err=True)
