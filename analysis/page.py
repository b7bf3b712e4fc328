"""One HTML page about a run or several: the viewer, and below it every measure with its figure and table.

The page is self-contained (pictures, module and style inside, nothing fetched), so it can be mailed or archived.
Without scripts and in print the part below stands alone. It computes nothing of its own: a measure that lacks its
record is named together with the option that would have kept it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from analysis.common import divergence, pairing, runs
from analysis.measure import MEASURES
from analysis.viewer import drawing, static
from analysis.viewer.content import held
from analysis.viewer.payload import BUDGET, payload
from analysis.viewer.static import prose, text

PAGE = 2_000_000
"""Bytes of a page."""
LEAST = 300_000
"""Bytes of it that the viewer's data has at least, whatever the figures are."""
LARGE = 250_000
"""Bytes of a figure from which on a picture may take its place."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""The page loads nothing, whatever a text of the run says."""
START = """
mount(document.getElementById("viewer"), JSON.parse(document.getElementById("payload").textContent), {address: true});
document.documentElement.classList.add("js");
"""


def report(several: pairing.Runs, sections: Sequence[str] | None = None) -> str:
    """The HTML page of a run, or of several side by side, with every measure of `sections` that the records allow.

    sections: names of measures; None takes those of `MEASURES` that say they belong on the page. A page has at most 2
    MB: large figures become pictures or are left out, and the viewer shows fewer samples and frames; the page says so.
    Raises runs.RunError for a run without a complete sample; a measure that cannot be made is listed with its reason.
    """
    trees = [held(run) for run in pairing.as_list(several)]
    names = on_page() if sections is None else list(sections)
    pages = [_Page(run, f"r{number}-" if len(trees) > 1 else "", names) for number, run in enumerate(trees, start=1)]
    style, module = f"{_asset('viewer', 'viewer.css')}\n{_asset('', 'page.css')}", _asset("viewer", "viewer.js")
    together = _together(trees, names) if len(trees) > 1 else []
    figures = [each.figure for each in together] + [each.figure for page in pages for each in page.measured]
    frame = _bytes(style) + _bytes(module) + sum(page.size for page in pages) + 4000
    _fit(figures, PAGE - LEAST - frame)
    room = PAGE - frame - sum(_bytes(figure.html) for figure in figures)
    document = payload(trees, budget=min(BUDGET, room))
    for page, run in zip(pages, document["runs"], strict=True):
        page.told = static.told(run["sentences"], run["command"])
    title = text(runs.title(trees[0]) if len(trees) == 1 else ", ".join(run["name"] for run in document["runs"]))
    data = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    body = pages[0].html() if len(pages) == 1 else _several(pages, together, [run["name"] for run in document["runs"]])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{title}</title>\n<style>\n{style}\n</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="payload">{data}</script>\n'
        f'<script type="module">\n{module}\n{START}</script>\n</body></html>\n'
    )


def on_page() -> list[str]:
    """Names of the measures that belong on the page, in the order of `MEASURES`."""
    return [name for name, measure in MEASURES.items() if measure.on_page]


@dataclass(eq=False)
class _Drawn:
    """A figure in the page, as HTML."""

    name: str
    title: str
    figure: Figure
    html: str = ""

    def __post_init__(self) -> None:
        self.html = drawing.svg(self.figure, f"{self.name}-figure", self.title)
        if _bytes(self.html) > LARGE:
            self.rasterise()

    def rasterise(self) -> None:
        """Take the picture instead where it is smaller."""
        self.html = min(self.html, drawing.picture(self.figure, self.title), key=len)

    def leave_out(self) -> None:
        """Say how to draw it instead."""
        name = self.name.rpartition("-")[2]
        self.html = f"<p>Left out to keep the page small; <code>trace analyze {text(name)}</code> draws it.</p>"


@dataclass(eq=False)
class _Measured:
    """One measure of the page: its sentence, figure and table."""

    name: str
    title: str
    sentence: str
    figure: _Drawn
    table: str

    def html(self, level: int) -> str:
        """A section with a heading of this level."""
        return (
            f'<section><h{level} id="{self.name}">{text(self.title)}</h{level}>\n'
            f'<p class="sentence">{prose(self.sentence)}</p>\n'
            f'<figure class="card scroll" role="group" aria-label="Figure: {text(self.title)}" tabindex="0">'
            f"{self.figure.html}</figure>\n{self.table}</section>"
        )


class _Page:
    """The part of the page about one run; `prefix` begins its ids."""

    def __init__(self, run: xr.DataTree, prefix: str, names: Sequence[str]) -> None:
        self.run, self.prefix, self.told = run, prefix, ""
        self.measured, self.missing = _measured(run, names, prefix)
        self.gallery = static.gallery(runs.complete(run), "Decoded results: an arm a row, the same noise in a column")
        self.made = _made_how(run)

    @property
    def size(self) -> int:
        """Bytes without figures, nearly."""
        return (
            len(self.gallery)
            + len(self.made)
            + sum(len(each.html(2)) - len(each.figure.html) for each in self.measured)
        )

    def entries(self) -> list[tuple[str, str]]:
        """Ids and titles of its sections."""
        found = [(f"{self.prefix}results", "Results")] if self.gallery else []
        found += [(each.name, each.title) for each in self.measured]
        found += [(f"{self.prefix}missing", "What this run cannot show")] if self.missing else []
        return [*found, (f"{self.prefix}made", "How it was made")]

    def html(self) -> str:
        """The whole body below the viewer, of a page about one run."""
        name = text(self.run.name or "run")
        head = f'<header><h1>{name}</h1>{_lead(self.run)}</header>\n<div id="viewer"></div>'
        return f'{head}\n<main id="page">{self.told}\n{static.contents(self.entries())}\n{self.sections(2)}</main>'

    def sections(self, level: int) -> str:
        """Its sections, with headings of this level."""
        parts = [f'<h{level} id="{self.prefix}results">Results</h{level}>\n{self.gallery}'] if self.gallery else []
        parts += [each.html(level) for each in self.measured]
        if self.missing:
            items = "".join(f"<li><b>{text(name)}:</b> {prose(reason)}</li>" for name, reason in self.missing)
            heading = f'<h{level} id="{self.prefix}missing">What this run cannot show</h{level}>'
            parts.append(f"<section>{heading}\n<ul>{items}</ul></section>")
        parts.append(f'<section><h{level} id="{self.prefix}made">How it was made</h{level}>\n{self.made}</section>')
        return "\n".join(parts)


def _several(pages: Sequence[_Page], together: Sequence[_Measured], names: Sequence[str]) -> str:
    """The body of a page about several runs: what they say together, then each by itself."""
    entries = [(each.name, each.title) for each in together]
    parts = [each.html(2) for each in together]
    for page, name in zip(pages, names, strict=True):
        entries.append((f"{page.prefix}run", name))
        inner = f"{_lead(page.run)}{page.told}\n{static.contents(page.entries(), name, 3)}\n{page.sections(3)}"
        parts.append(
            f'<details open class="run"><summary><h2 id="{page.prefix}run">{text(name)}</h2></summary>{inner}</details>'
        )
    head = f'<header><h1>{len(pages)} runs</h1><p class="lead">{text(", ".join(names))}</p></header>'
    return (
        f'{head}\n<div id="viewer"></div>\n<main id="page">{static.contents(entries)}\n' + "\n".join(parts) + "</main>"
    )


def _together(trees: Sequence[xr.DataTree], names: Sequence[str]) -> list[_Measured]:
    """The measures that take several runs, of those that fit together."""
    several = [(name, measure) for name, measure in MEASURES.items() if measure.reads == "runs"]
    wanted = [name for name, measure in several if name in names or (names and measure.beyond == "runs")]
    return _measured(list(trees), wanted, "all-")[0]


def _measured(
    run: xr.DataTree | list[xr.DataTree], names: Sequence[str], prefix: str
) -> tuple[list[_Measured], list[tuple[str, str]]]:
    """The measures that can be made, and the questions of the others with the reason."""
    made, missing = [], []
    for name in names:
        measure = MEASURES.get_or_raise(name)
        try:
            dataset = measure(run)
            drawn = _Drawn(f"{prefix}{name}", measure.question, measure.figure(dataset))
            table = static.table(measure.table(dataset), measure.question, f" in {name}.csv")
            made.append(_Measured(f"{prefix}{name}", measure.question, measure.sentence(dataset), drawn, table))
        except ValueError as reason:  # RunError and its kin: what was not recorded, and what to type
            missing.append((measure.question, str(reason)))
    return made, missing


def _fit(figures: Sequence[_Drawn], room: int) -> None:
    """Make the largest figures pictures, then leave out the largest, until all fit into so many bytes."""
    ways: tuple[Callable[[_Drawn], None], ...] = (_Drawn.rasterise, _Drawn.leave_out)
    for way in ways:
        for figure in sorted(figures, key=lambda each: -_bytes(each.html)):
            if sum(_bytes(each.html) for each in figures) <= room:
                return
            way(figure)


def _bytes(part: str) -> int:
    return len(part.encode())


def _lead(run: xr.DataTree) -> str:
    samples, left_out = runs.complete(run)["metrics"].sizes["sample"], divergence.left_out(run)["left_out"]
    names = runs.names(run, floor=True)
    arms = ", ".join(["clean", *names[:12]]) + (" …" if len(names) > 12 else "")
    warning = f'\n<p class="lead"><b>{text(left_out)}</b></p>' if left_out else ""
    return f'<p class="lead">{text(f"{runs.title(run)} · {samples} samples · arms: {arms}")}</p>{warning}'


def _made_how(run: xr.DataTree) -> str:
    parts = []
    for name in ("config", "provenance"):
        if name in run.attrs:
            shown = text(json.dumps(_parsed(run.attrs[name]), indent=1, ensure_ascii=False))
            parts.append(f"<details><summary>{name}</summary><pre>{shown}</pre></details>")
    names = ("run_id", "created_at", "config_hash", "schema_version")
    facts = ", ".join(f"{name} {run.attrs[name]}" for name in names if name in run.attrs)
    return f"<p>{text(facts)}</p>\n" + "\n".join(parts)


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _asset(folder: str, name: str) -> str:
    package = f"analysis.{folder}" if folder else "analysis"
    return (files(package) / name).read_text(encoding="utf-8")
