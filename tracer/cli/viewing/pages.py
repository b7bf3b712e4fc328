"""The pages of `trace view`: the list of runs, a view of some of them, an error. HTML as text, nothing computed here.

The list is a plain table of links and a form, so that it works without scripts. Names come from folders and stores of
anybody, so that every text goes through `_text`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType
from urllib.parse import urlencode

from tracer.cli.listing import Line
from tracer.cli.summary import seconds_only
from tracer.cli.terminal import human_bytes
from tracer.visible import visible

AT_ONCE = 64
"""Samples whose tracks are sent at a time."""
COLUMNS = ("run", "made (UTC)", "model", "arms", "how", "complete", "size")
MOST_MASKS = 6


def asset(name: str) -> str:
    """A style sheet or a script of these pages."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def page(title: str, body: str, *, head: str = "") -> str:
    """A whole page. head: what goes there besides title and size."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"{head}</head>\n<body>\n{body}\n</body></html>\n"
    )


def index(
    lines: Sequence[Line],
    where: str,
    link: Callable[[Line], str | None],
    *,
    compare: bool = True,
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The body of the list, newest first as given.

    where: what is listed. link: the address of a run's page, None for what has none. compare: whether several can be
    ticked and looked at together. reasons: why a run that can be read has no page.
    """
    if not lines:
        make = "make one with <code>trace run --model dit --mask R4S32</code> and load this page again"
        return f"<main><h1>Runs</h1><p>There is no run under {_text(where)}: {make}.</p></main>"
    rows = "\n".join(_row(line, link(line), compare, reasons.get(line.name, "")) for line in lines)
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    tick = '<th scope="col"><span class="away">compare</span></th>' if compare else ""
    table = f'<table class="runs"><thead><tr>{tick}{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
    count = f"{counted(lines)} under {_text(where)}, newest first."
    search = '<p class="filter" hidden><label>Filter <input type="search" id="filter"></label> <output></output></p>'
    form = f'<form action="/view">{table}<p><button>View the ticked runs side by side</button></p></form>'
    return f"<main><h1>Runs</h1><p>{count}</p>\n{search}\n{form if compare else table}</main>"


def counted(lines: Sequence[Line]) -> str:
    """`1 run`, `3 runs and 2 sweeps`."""
    numbers = {kind: sum(line.kind == kind for line in lines) for kind in ("run", "sweep")}
    return " and ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in numbers.items() if n) or "no runs"


def view(names: Sequence[str], samples: int, first: int, notes: Sequence[str]) -> str:
    """The body of the page with the viewer of some runs, from sample `first` on; its data are fetched by its script.

    samples: how many the largest run has. notes: what is to be known first, such as damage.
    """
    several = [("run", name) for name in names]
    data = _text(address("/payload", [*several, ("from", str(first))]))
    links = " · ".join(f'<a href="{_text(address("/report", [("run", name)]))}">{_text(name)}</a>' for name in names)
    links += f' · <a href="{_text(address("/report", several))}">of all together</a>' if len(names) > 1 else ""
    said = "".join(f'<p class="note">{_text(note)}</p>' for note in notes)
    return (
        f'<main class="wide"><p class="path"><a href="/">All runs</a> · report: {links}</p>'
        f"<h1>{_text(' and '.join(names))}</h1>\n{said}{_chooser(several, samples, first)}\n"
        f'<div id="viewer" data-payload="{data}"><p id="state" role="status">Reading the run …</p></div>\n'
        "<noscript><p>The viewer needs scripts; the report does not.</p></noscript></main>"
    )


def error(status: int, phrase: str, reason: str) -> str:
    """The body of a page that says what went wrong."""
    return (
        f'<main><h1>{status} {_text(phrase)}</h1>\n<p class="note">{_text(reason)}</p>'
        '\n<p><a href="/">All runs</a></p></main>'
    )


def address(path: str, query: Sequence[tuple[str, str]] | Mapping[str, str]) -> str:
    """An address on this server; names of folders that are no UTF-8 survive it."""
    return f"{path}?{urlencode(query, errors='surrogateescape')}"


def _row(line: Line, link: str | None, compare: bool, reason: str) -> str:
    name = f'<a href="{_text(link)}">{_text(line.name)}</a>' if link else _text(line.name)
    name = f'<td class="name">{name}</td>'
    tick = ""
    if compare:
        can = f'<input type="checkbox" name="run" value="{_raw(line.name)}" aria-label="compare {_text(line.name)}">'
        tick = f'<td class="tick">{can if link else ""}</td>'
    if why := line.problem or reason:
        return f'<tr class="broken">{tick}{name}<td colspan="{len(COLUMNS) - 1}">{_text(why)}</td></tr>'
    masks = ", ".join(line.masks[:MOST_MASKS])
    masks += f" … ({len(line.masks)})" if len(line.masks) > MOST_MASKS else ""
    cells = seconds_only(line.created), line.model, masks, line.how, f"{line.complete}/{line.all}"
    shown = zip(COLUMNS[1:], (*cells, human_bytes(line.bytes)), strict=True)
    return f"<tr>{tick}{name}" + "".join(
        f'<td data-label="{column}">{_text(text)}</td>' for column, text in shown
    ) + "</tr>"  # fmt: skip


def _chooser(several: Sequence[tuple[str, str]], samples: int, first: int) -> str:
    """Links to the other samples, and a field for one of them; nothing where all are here."""
    if samples <= AT_ONCE:
        return ""
    links = [
        f"<b>{start}–{min(start + AT_ONCE, samples) - 1}</b>"
        if start == first
        else f'<a href="{_text(address("/view", [*several, ("from", str(start))]))}">'
        f"{start}–{min(start + AT_ONCE, samples) - 1}</a>"
        for start in range(0, samples, AT_ONCE)
    ]
    hidden = "".join(f'<input type="hidden" name="{name}" value="{_raw(value)}">' for name, value in several)
    field = f'<input type="number" name="sample" min="0" max="{samples - 1}" required>'
    return (
        f'<nav aria-label="Samples"><form action="/view">{hidden}<label>Go to sample {field}</label> '
        f"<button>Go</button></form><p>Samples {' '.join(links)}</p></nav>"
    )


def _text(text: object) -> str:
    """A text as HTML, control characters and marks of direction written out."""
    return html.escape(visible(_encodable(str(text))))


def _raw(text: str) -> str:
    """A value that a form sends back as it is."""
    return html.escape(text)


def _encodable(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
