"""A mkdocs hook: the reference of the command line is click's own help, read when the site is built."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

import click
from mkdocs.structure.pages import Page

from tracer.cli.main import main

MARK = "<!-- every command, as click describes it -->"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the commands where the page has the mark."""
    return markdown.replace(MARK, "\n".join(described(main, click.Context(main, info_name="trace"), 2)))


def described(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    """One command and those below it: usage, text and examples as help prints them, its options as a table."""
    yield f"{'#' * level} {context.command_path}\n"
    yield _printed(context, command.format_usage, command.format_help_text, command.format_epilog)
    yield "| option | meaning |\n|---|---|"
    for option in command.get_params(context):
        if record := option.get_help_record(context):
            names = ", ".join(f"<code>{_cell(name)}</code>" for name in record[0].split(", "))
            yield f"| {names} | {_cell(record[1])} |"
    yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            deeper = level + (context.parent is not None)
            yield from described(below, click.Context(below, info_name=name, parent=context), deeper)


def _printed(context: click.Context, *formats: Callable[[click.Context, click.HelpFormatter], None]) -> str:
    """What parts of the help print, as a block of text."""
    formatter = click.HelpFormatter(width=88)
    for each in formats:
        each(context, formatter)
    return f"```text\n{formatter.getvalue().strip()}\n```\n"


def _cell(text: str) -> str:
    """Plain text for a cell of a table: no mark-up, no bar."""
    return re.sub(r"[|*_`\[\]\\]", lambda mark: f"&#{ord(mark[0])};", html.escape(text, quote=False))
