"""A mkdocs hook: what the command line and `tracer.trace` take is read off the program when the site is built."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
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
    return f"``` {{ .text .help }}\n{formatter.getvalue().strip()}\n```\n"


def _cell(text: str) -> str:
    """Plain text for a cell of a table: backticks make code, and there is no other mark-up and no bar."""
    marks = re.sub(r"[|*_\[\]\\]", lambda mark: f"&#{ord(mark[0])};", html.escape(text, quote=False))
    return re.sub("`([^`]+)`", r"<code>\1</code>", marks)
