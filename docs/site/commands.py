"""A mkdocs hook: what the command line and `tracer.trace` take is read off the program when the site is built."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

import click
from mkdocs.structure.pages import Page

from tracer.cli.main import main
from tracer.request import parameters

COMMANDS = "<!-- every command, as click describes it -->"
PARAMETERS = "<!-- every parameter of a run -->"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the commands, or the parameters of a run, where the page has the mark."""
    if COMMANDS in markdown:
        lines = described(main, click.Context(main, info_name="trace"), 2)
        return markdown.replace(COMMANDS, "\n".join(lines))
    return markdown.replace(PARAMETERS, "\n".join(tabulated())) if PARAMETERS in markdown else markdown


def tabulated() -> Iterator[str]:
    """The parameters that `tracer.trace` and `trace run` share: name, option, default, meaning."""
    yield "| parameter | option | default | meaning |\n|---|---|---|---|"
    for name, parameter in parameters().items():
        flag = f"<code>{_cell(parameter.flag)}</code>" if parameter.flag else ""
        default = f"<code>{_cell(repr(parameter.default))}</code>"
        yield f"| <code>{_cell(name)}</code> | {flag} | {default} | {_cell(parameter.help)} |"


def described(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    """One command and those below it: usage, text and examples as help prints them, its options as tables."""
    yield f"{'#' * level} {context.command_path}\n"
    text, tables = click.HelpFormatter(width=76), Tables()
    for each in (command.format_usage, command.format_help_text, command.format_epilog):
        each(context, text)
    command.format_options(context, tables)
    yield f"``` {{ .text .help }}\n{text.getvalue().strip()}\n```\n\n{tables.getvalue()}"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            deeper = level + (context.parent is not None)
            yield from described(below, click.Context(below, info_name=name, parent=context), deeper)


class Tables(click.HelpFormatter):
    """Prints every list of a help text as a table, under the heading of its section."""

    def write_heading(self, heading: str) -> None:
        """Keep it for the table."""
        self.heading = heading

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """A row for each option or command."""
        self.write(f"| {_cell(self.heading)} | |\n|---|---|\n")
        for names, meaning in rows:
            shown = ", ".join(f"<code>{_cell(name)}</code>" for name in names.split(", "))
            self.write(f"| {shown} | {_cell(meaning)} |\n")
        self.write("\n")


def _cell(text: str) -> str:
    """Plain text for a cell of a table: backticks make code, and there is no other mark-up and no bar."""
    marks = re.sub(r"[|*_\[\]\\]", lambda mark: f"&#{ord(mark[0])};", html.escape(text, quote=False))
    return re.sub("`([^`]+)`", r"<code>\1</code>", marks)
