"""Help as every command shows it: what it does, examples that can be typed as they stand, options under headings.

`Command` and `Group` are click's with examples. An example is a line for a shell, with a comment behind `#` or without;
one that is wider than the terminal is broken as a shell allows, so that it can still be copied.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from interventions.naming import closest, unknown

Headings = Mapping[str, Sequence[str]]
"""Heading -> names of the parameters under it; what is named nowhere stands under the last one, "Options"."""
Examples = Sequence[str] | Callable[[], Sequence[str]]
"""Lines for a shell, or what gives them when they are shown."""
REST = "Options"
COMMENT = "  # "
"""Between a command and what is said of it, as a shell reads it."""
_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")


class Command(click.Command):
    """A command with examples, and its options under headings."""

    def __init__(self, *args: Any, examples: Examples = (), headings: Headings | None = None, **named: Any):
        super().__init__(*args, **named)
        self._examples, self.headings = examples, headings or {}

    @property
    def examples(self) -> tuple[str, ...]:
        """Lines for a shell."""
        return tuple(self._examples() if callable(self._examples) else self._examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click; an option that there is not is answered with the one that was meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(self.no_option(error.option_name, ctx), ctx) from None

    def no_option(self, flag: str, ctx: click.Context) -> str:
        """What is said of an option that this command has not."""
        flags = [own for each in self.get_params(ctx) for own in (*each.opts, *each.secondary_opts) if own[0] == "-"]
        return unknown(f"no option {flag}", flag, flags, f"`{ctx.command_path} --help` lists all")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The text, and the examples under it."""
        super().format_help_text(ctx, formatter)
        write_examples(self.examples, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, heading by heading."""
        records = {each.name: each.get_help_record(ctx) for each in self.get_params(ctx) if _is_shown(each)}
        placed = [name for names in self.headings.values() for name in names]
        sections = {**self.headings, REST: [name for name in records if name not in placed]}
        for heading, names in sections.items():
            if rows := [row for name in names if (row := records.get(name)) is not None]:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class Choice(click.Choice):
    """One of some words; another is answered with the one that was meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """What was wrong, what was meant, what there is."""
        return unknown(f"there is no {value!r}", value, self.choices)


class Group(click.Group):
    """A group with examples, which answers a misspelt command with the one that was meant; alone it shows its help."""

    command_class = Command
    names_of = "command"
    """What its commands are called in messages."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **named: Any):
        super().__init__(*args, **named)
        self.examples = tuple(examples)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The text, and the examples under it."""
        super().format_help_text(ctx, formatter)
        write_examples(self.examples, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were added."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click; without any word the help is what was asked for, and no error."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, with what was probably meant."""
        names = self.list_commands(ctx)
        if not ctx.resilient_parsing and not args[0].startswith("-") and args[0] not in names:
            path = ctx.command_path
            near = closest(args[0], names)
            meant = f"did you mean `{path} {near}`? " if near else ""
            raise click.UsageError(f"no {self.names_of} {args[0]!r}: {meant}`{path} --help` lists all", ctx)
        return super().resolve_command(ctx, args)


def write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    """A section of examples, no line wider than the terminal; comments beside commands where all fit, else above."""
    if not examples:
        return
    width = formatter.width - 2
    commands = [example.partition(COMMENT)[0] for example in examples]
    aligned = [
        f"{command:{max(map(len, commands))}}{COMMENT}{comment}" if comment else command
        for command, (_, _, comment) in zip(commands, (example.partition(COMMENT) for example in examples), strict=True)
    ]
    beside = max(map(len, aligned)) <= width
    with formatter.section("Examples"):
        for line in aligned if beside else [line for example in examples for line in laid_out(example, width)]:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def laid_out(example: str, width: int) -> list[str]:
    """An example as lines that a shell takes: its comment above it, and broken before options where it is too wide.

    A word is never broken, so that a line is wider than asked for where a word is.
    """
    command, _, comment = example.partition(COMMENT)
    lines = [f"# {line}" for line in textwrap.wrap(comment, width - 2)] + [""]
    for part in [command] if len(command) <= width else _parts(command):
        if lines[-1].strip() and len(lines[-1]) + len(part) + len("  \\") > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return lines


def _parts(command: str) -> list[str]:
    """Words of a command, an option together with what follows it."""
    parts: list[str] = []
    for word in _WORD.findall(command):
        if parts and not word.startswith("-") and parts[-1].startswith("-") and " " not in parts[-1]:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts


def _is_shown(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.hidden
