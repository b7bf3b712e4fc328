"""The notebooks of docs/notebooks: every cell runs, what is committed is what they give, and nothing in them tells of
the machine that wrote them.

`python -m tests.notebooks.execute` writes them anew.
"""

from __future__ import annotations

import getpass
import re
import runpy
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from tests.notebooks.execute import NOTEBOOKS, ROOT, executed, tidy

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
NO_NUMBER = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|^(?: {4}).*$", re.DOTALL | re.MULTILINE)
"""Of Markdown, what quotes code or leads elsewhere."""
MOST = 1_500_000
"""Bytes of all notebooks together."""
WITHIN = 0.05
"""How far a number may be from the committed one, of its size: another machine rounds otherwise."""
ROUNDING = 1e-4
"""Below it a number written with an exponent says how far rounding goes, and may be any other such number."""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def markdown(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def outputs(notebook) -> Iterator:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def said(notebook) -> list[str]:
    """The text of every output, in order; pictures and their stand-ins left out."""
    texts = []
    for output in outputs(notebook):
        data = output.get("data", {})
        if not any(kind.startswith("image/") for kind in data):
            page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", data.get("text/html", ""), flags=re.DOTALL)
            texts.append(output.get("text") or data.get("text/plain") or page)
    return texts


def shown(notebook) -> list[str]:
    """All that the outputs hold but pictures, in whatever form."""
    texts = []
    for output in outputs(notebook):
        data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
        texts += [output.get("text", ""), *map(str, data.values())]
    return [re.sub(r"data:image/[^\"')]*", "", text) for text in texts]


def alike(one: str, other: str) -> bool:
    """Whether two numbers are the same but for rounding: of the machine, and of their last digit."""
    a, b = float(one), float(other)
    size, digits = max(abs(a), abs(b)), min(len(each.partition(".")[2]) for each in (one, other))
    if "e" in one + other:
        return size < ROUNDING or abs(a - b) <= WITHIN * size
    return abs(a - b) <= WITHIN * size + 10.0**-digits


def differences(committed: list[str], fresh: list[str]) -> list[tuple[str, str]]:
    pairs = list(zip(committed, fresh, strict=True))
    wrong = [(a, b) for a, b in pairs if NUMBER.sub("#", a).split() != NUMBER.sub("#", b).split()]
    numbers = ((one, other) for a, b in pairs for one, other in zip(NUMBER.findall(a), NUMBER.findall(b), strict=False))
    return wrong or [pair for pair in numbers if not alike(*pair)]


def test_every_cell_runs_and_gives_what_is_committed(path):
    committed = nbformat.read(path, as_version=4)
    fresh = executed(path)
    assert [len(cell.get("outputs", [])) for cell in committed.cells] == [
        len(cell.get("outputs", [])) for cell in fresh.cells
    ]
    assert not differences(said(committed), said(fresh)), "write it anew: python -m tests.notebooks.execute"


def test_a_number_that_went_stale_is_found():
    assert not differences(["S 0.82 [0.80, 0.84]"], ["S 0.83 [0.80, 0.84]"])
    assert differences(["S 0.82 [0.80, 0.84]"], ["S 0.92 [0.80, 0.84]"])
    assert differences(["feedback: none"], ["feedback: damping"])
    assert not differences(["off by 3e-07"], ["off by 8e-07"])


def test_numbers_in_the_prose_are_printed_or_set_by_a_cell(path):
    notebook = nbformat.read(path, as_version=4)
    known = {
        number
        for text in [*said(notebook), *(cell.source for cell in notebook.cells if cell.cell_type == "code")]
        for number in NUMBER.findall(text)
    }
    told = [number for text in markdown(notebook) for number in NUMBER.findall(NO_NUMBER.sub(" ", text))]
    assert not set(told) - known


def test_nothing_tells_of_the_machine(path):
    notebook = nbformat.read(path, as_version=4)
    assert nbformat.writes(notebook) == nbformat.writes(tidy(notebook))
    texts = [*shown(notebook), str(notebook.metadata)]
    for name in {str(Path.home()), str(ROOT), socket.gethostname(), getpass.getuser()} - {"/", "root", "localhost"}:
        assert not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for text in texts), name
    for text in texts:
        assert not re.search(r"(?<![\w.:<])/(?:tmp|home|root|usr|Users|work|opt|var|private)\b", text), text
        assert " at 0x" not in text


def test_no_output_is_an_error_or_a_warning(path):
    for output in outputs(nbformat.read(path, as_version=4)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


def test_links_lead_somewhere(path):
    for text in markdown(nbformat.read(path, as_version=4)):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            assert target.startswith("https://") or (path.parent / target).exists(), target


def test_links_of_a_notebook_lead_to_pages_of_the_site(caplog):
    pytest.importorskip("mkdocs")
    from mkdocs.structure.files import File, Files

    hook = runpy.run_path(str(ROOT / "docs" / "site" / "notebooks.py"))
    names = ("notebooks/a.ipynb", "notebooks/b.ipynb", "science.md")
    files = Files([File(name, "docs", "site", use_directory_urls=False) for name in names])
    page, html = SimpleNamespace(file=files.get_file_from_path("notebooks/a.ipynb")), '<a href="{}">x</a>'

    def turned(target: str) -> str:
        return hook["on_page_content"](html.format(target), page, None, files)

    assert turned("../science.md#gains") == html.format("../science.html#gains")
    assert turned("https://example.org/a.md") == html.format("https://example.org/a.md")
    assert not caplog.messages
    assert turned("../missing.md") == html.format("../missing.md")
    assert caplog.messages == ["notebooks/a.ipynb links to ../missing.md, which is no page"]


def test_they_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST
    assert len(NOTEBOOKS) >= 3
