"""What stands in the pages: their fenced blocks, and the commands of a shell text."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[ \t]*(.*)$")
SHELL = ("bash", "sh", "console")
PYTHON = ("python", "py")
PROMPT = "$ "
"""Before a command in a `console` block; its other lines are what the terminal shows."""


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the comment on the line before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in their order, those of lists, notes and tabs without their indent."""
    result, lines = [], page.read_text().split("\n")
    at = 0
    while at < len(lines):
        if opened := FENCE.match(lines[at]):
            fence, info = opened[2], opened[3]
            end = next(k for k in range(at + 1, len(lines)) if lines[k].strip() == fence)
            mark = re.fullmatch(r"<!-- (.*) -->", lines[at - 1].strip()) if at else None
            text = textwrap.dedent("\n".join(lines[at + 1 : end]) + "\n")
            result.append(Block(page, at + 1, language(info), text, mark[1] if mark else ""))
            at = end
        at += 1
    return result


def language(info: str) -> str:
    """The language of a fence: "bash" of "bash", of `bash title="x"` and of "{ .bash .copy }"."""
    words = info.strip("{} ").split()
    return words[0].lstrip(".") if words else ""


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    kept, fence = [], ""
    for line in page.read_text().split("\n"):
        found = FENCE.match(line)
        if not fence and found:
            fence = found[2]
        elif fence:
            fence = "" if line.strip() == fence else fence
        else:
            kept.append(line)
    return "\n".join(kept)


def shell_lines(block: Block) -> str:
    """What is typed of a shell block: all of it, or of a `console` block what stands behind its prompts."""
    if block.language != "console":
        return block.text
    joined = block.text.replace("\\\n", " ")
    return "\n".join(line.removeprefix(PROMPT) for line in joined.split("\n") if line.startswith(PROMPT))


def commands(text: str) -> list[list[str]]:
    """The words of every simple command of a shell text: continuation lines joined, comments dropped."""
    found = []
    for line in text.replace("\\\n", " ").split("\n"):
        words = shlex.shlex(line, posix=True, punctuation_chars="&;|<>()")
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if word in ("&&", "||", ";", "|", "&"):
                found.append(command)
                command = []
            else:
                command.append(word)
        found.append(command)
    return [command for command in found if command]


def traced(command: list[str]) -> list[str]:
    """The words after `trace`, whatever starts it (`exec`, `srun`, a profiler); none where it is not called."""
    for name in ("trace", "tracer.cli.main"):
        if name in command:
            return command[command.index(name) + 1 :]
    return []


def launcher(command: list[str]) -> list[str]:
    """The words before `trace`; all of a command that does not call it."""
    return command[: len(command) - len(traced(command)) - 1] if traced(command) else command
