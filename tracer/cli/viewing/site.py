"""What each address of `trace view` answers: the list, a view, its data, a strip of pictures, a report, the assets."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from tracer.cli.listing import Line
from tracer.cli.viewing import pages
from tracer.cli.viewing.catalogue import Catalogue, NotFoundError, Opened
from tracer.cli.viewing.held import Held

Query = Sequence[tuple[str, str]]
HTML, JSON, WEBP = "text/html; charset=utf-8", "application/json", "image/webp"
FRESH = {"Cache-Control": "no-store"}
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
"""For what has the run's version in its address."""
ASSETS = {
    "/viewer.js": ("analysis.viewer", "text/javascript; charset=utf-8"),
    "/viewer.css": ("analysis.viewer", "text/css; charset=utf-8"),
    "/view.js": (pages.__package__, "text/javascript; charset=utf-8"),
    "/list.js": (pages.__package__, "text/javascript; charset=utf-8"),
    "/pages.css": (pages.__package__, "text/css; charset=utf-8"),
}
STYLES = '<link rel="stylesheet" href="/pages.css">'


@dataclass(frozen=True)
class Reply:
    """What goes back. scripts: hashes of the inline scripts that may run. own_styles: whether inline styles may."""

    body: bytes
    type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: FRESH)
    scripts: tuple[str, ...] = ()
    own_styles: bool = False

    @classmethod
    def page(cls, title: str, body: str, *, head: str = "", status: int = 200) -> Reply:
        """A page of ours."""
        return cls(pages.page(title, body, head=STYLES + head).encode(errors="replace"), HTML, status)


class Site:
    """The pages over a catalogue. where: what is listed, in words."""

    def __init__(self, catalogue: Catalogue, where: str) -> None:
        self.catalogue, self.where = catalogue, where
        self._held = Held()
        self._drawing = threading.Lock()  # figures are drawn one at a time

    def reply(self, path: str, query: Query) -> Reply:
        """The answer to an address. Raises NotFoundError for one that there is not, RunError for a damaged run."""
        if path == "/":
            return self.index()
        if path in ASSETS:
            return asset(path)
        answers = {"/view": self.view, "/payload": self.payload, "/strip": self.strip, "/report": self.report}
        if path not in answers:
            raise NotFoundError(f"there is nothing at {path}; the list of runs is at /")
        return answers[path](query)

    def index(self) -> Reply:
        """The list of what there is now."""
        body = pages.index(self.catalogue.lines(), self.where, _link)
        return Reply.page("trace view", body, head='<script type="module" src="/list.js"></script>')

    def view(self, query: Query) -> Reply:
        """The page of one run or several."""
        opened = self._runs(query)
        sizes = [each.tree.sizes["sample"] for each in opened]
        wanted = dict(query).get("sample")
        if wanted is not None:
            sample = _number("sample", wanted, max(sizes))
            start = sample // pages.AT_ONCE * pages.AT_ONCE
            place = pages.address("/view", [*_named(opened), ("from", str(start))])
            return Reply(b"", HTML, 303, {**FRESH, "Location": f"{place}#sample={sample}"})
        first = _number("from", dict(query).get("from", "0"), max(sizes))
        notes = [f"{each.line.name}: {text}" for each in opened for text in each.warnings]
        body = pages.view([each.line.name for each in opened], max(sizes), first, notes)
        head = '<link rel="stylesheet" href="/viewer.css"><script type="module" src="/view.js"></script>'
        return Reply.page(" and ".join(each.line.name for each in opened), body, head=head)

    def payload(self, query: Query) -> Reply:
        """The data of a view as JSON, its pictures as addresses of strips."""
        opened = self._runs(query)
        first = _number("from", dict(query).get("from", "0"), max(each.tree.sizes["sample"] for each in opened))
        return Reply(self._held.payload(opened, range(first, first + pages.AT_ONCE)), JSON)

    def strip(self, query: Query) -> Reply:
        """The pictures, or a map, of one arm and sample side by side, as WebP."""
        (opened,), asked = self._runs(query), dict(query)
        arm, sample = asked.get("arm", ""), _number("sample", asked.get("sample", ""), opened.tree.sizes["sample"])
        headers = KEPT if asked.get("version") == opened.version else FRESH
        return Reply(self._held.strip(opened, asked.get("kind", ""), arm, sample), WEBP, headers=headers)

    def report(self, query: Query) -> Reply:
        """The page about the runs that needs no server, as `trace report` writes it."""
        opened = self._runs(query)
        with self._drawing:
            text = self._held.report(opened)
        return Reply(text.encode(errors="replace"), HTML, scripts=inline_scripts(text), own_styles=True)

    def _runs(self, query: Query) -> list[Opened]:
        names = list(dict.fromkeys(value for name, value in query if name == "run"))
        if not names:
            raise NotFoundError("no run is named: tick some in the list of runs")
        return [self.catalogue.open(name) for name in names]


@lru_cache(maxsize=len(ASSETS))
def asset(path: str) -> Reply:
    """A script or a style sheet."""
    package, kind = ASSETS[path]
    return Reply((files(package) / path.removeprefix("/")).read_bytes(), kind)


def inline_scripts(text: str) -> tuple[str, ...]:
    """The hashes of the scripts within a page of ours, for its Content-Security-Policy; data blocks are none."""
    found = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", text, flags=re.DOTALL)
    return tuple("sha256-" + base64.b64encode(sha256(each.encode()).digest()).decode("ascii") for each in found)


def _link(line: Line) -> str | None:
    return None if line.problem or line.kind != "run" else pages.address("/view", [("run", line.name)])


def _named(opened: Sequence[Opened]) -> list[tuple[str, str]]:
    return [("run", each.line.name) for each in opened]


def _number(name: str, text: str, end: int) -> int:
    """A number from 0 to below `end`."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= end:
        raise NotFoundError(f"{name}={text[:20]}: give a number from 0 to {end - 1}")
    return int(text)
