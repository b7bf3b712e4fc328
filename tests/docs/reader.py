"""Somebody who types a page from its beginning: its commands and its programs, in this process and this folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tests.docs import stand_ins, unrun
from tests.docs.pages import PYTHON, ROOT, SHELL, Block, blocks, commands, launcher, shell_lines, traced
from tests.docs.smaller import as_a_shell_reads, small_command, small_program
from tracer.cli.main import main
from tracer.cli.reproduction.recipe import recipes


class Reader:
    """`small`: at the size of a test, or as the page says. `scope` holds what the programs of the page have named."""

    def __init__(self, patch: pytest.MonkeyPatch, *, small: bool = True) -> None:
        self.patch, self.small = patch, small
        self.scope: dict[str, Any] = {"__name__": "__main__"}
        self.told = ""
        """What the last command printed."""

    def reads(self, page: Path) -> None:
        """All blocks of a page in their order."""
        for block in blocks(page):
            self.does(block)

    def does(self, block: Block) -> None:
        """One block: its commands, its program, or what it says of a package."""
        if block.language in SHELL:
            for command in commands(shell_lines(block)):
                self.command(command, str(block))
        elif block.language in PYTHON and not block.mark.startswith("file:"):
            text = small_program(block.text) if self.small else block.text
            exec(compile(text, str(block), "exec"), self.scope)
        elif block.language == "toml":
            stand_ins.install(block.text, self.scope, self.patch)

    def command(self, command: list[str], where: str) -> None:
        """Type what calls `trace`, but for what `unrun` says; stand in for the rest or find it listed."""
        if command[0] == "sbatch":  # its job is text
            for inner in commands(command[command.index("--wrap") + 1]):
                self.command(inner, where)
            return
        start, words = shlex.join(launcher(command)), traced(command)
        listed = unrun.STARTERS if words else unrun.OTHER_PROGRAMS
        if command[:4] == ["aws", "s3", "cp", "--recursive"]:
            stand_ins.copied_to_a_bucket(Path(command[4]), command[5])
        elif start and start not in listed:
            raise AssertionError(f"{where}: `{start}` is neither run nor listed in tests/docs/unrun.py")
        elif words and run_elsewhere(words):
            parse_like_click(words)
        elif words:
            self.types(words, where)

    def types(self, words: list[str], where: str) -> None:
        """A command without the word `trace`; it must succeed, or answer."""
        words = stand_ins.on_this_machine(small_command(words)) if self.small else as_a_shell_reads(words)
        result: Result = CliRunner().invoke(main, words)
        self.told = result.output
        answered = words[0] == "gate" and re.search(r"gate (passed|failed|undecided)", result.output)
        assert result.exit_code == 0 or answered, (
            f"{where}: trace {shlex.join(words)}\n{result.output}\n{result.exception!r}"
        )


def run_elsewhere(words: list[str]) -> bool:
    """Whether .ci/run rehearses this recipe as it is, or a reason is listed."""
    if shlex.join(words) in unrun.COMMANDS:
        return True
    if words[0] != "reproduce" or len(words) != 2:
        return False
    recipe = recipes().get(words[1])
    kind = "papers" if recipe is not None and recipe.paper else words[1]
    return f"trace reproduce {kind} --small" in (ROOT / ".ci" / "run").read_text()


def parse_like_click(words: list[str]) -> None:
    """Resolve a command and parse its options and arguments without running it; raises click's own errors."""
    command: click.Command = main
    context = click.Context(main, info_name="trace")
    while isinstance(command, click.Group) and words:
        _, found, words = command.resolve_command(context, list(words))
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=found.name)
    if not isinstance(command, click.Group):
        command.make_context(command.name, list(words), parent=context.parent)
