"""What the site is made of besides pages: the API names all that is public, and the hooks turn links and list commands.

That the site builds without a warning, every link and anchor in it, is seen by `mkdocs build --strict` in .ci/run.
"""

from __future__ import annotations

import html
import importlib.util
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest

from tests.test_docs import PACKAGES, ROOT, anchors
from tracer.cli.main import main
from tracer.request import Request, parameters

MODULES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def hook(name: str) -> ModuleType:
    """A hook of the site, loaded as mkdocs loads it: from its file."""
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("package", PACKAGES)
def test_the_api_page_has_every_public_name_once(package):
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    shown = [name.rsplit(".", 1)[1] for name in re.findall(r"^::: (\S+)$", page, re.M)]
    assert sorted(shown) == sorted(import_module(package).__all__)


def commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            found += commands(below, f"{path} {name}")
    return found


def test_the_reference_of_the_command_line_has_every_command_and_every_option():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="cli.md"))
    made = hook("commands").on_page_markdown((ROOT / "docs" / "cli.md").read_text(), page)
    parts = dict(re.findall(r"^#{2,3} (trace.*)\n((?:(?!^#{2,3} ).*\n?)*)", made, re.M))
    assert len(parts) > 30
    for path, command in commands(main, "trace"):
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert all(f"<code>{name}" in parts[path] for name in option.opts), (path, option.opts)


def test_the_parameters_of_a_run_are_those_of_trace():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="api/tracer.md"))
    made = hook("commands").on_page_markdown((ROOT / "docs" / "api" / "tracer.md").read_text(), page)
    assert re.findall(r"^\| <code>(\w+)</code> \|", html.unescape(made), re.M) == list(parameters())
    assert set(parameters()) <= set(Request.__dataclass_fields__)


@pytest.fixture
def files():
    """What mkdocs knows: two pages in docs/, one outside."""
    known = {
        "science.md": "docs/science.md",
        "howto/pages.md": "docs/howto/pages.md",
        "benchmarks/index.md": "benchmarks/README.md",
    }
    return [SimpleNamespace(src_uri=uri, abs_src_path=str(ROOT / path)) for uri, path in known.items()]


@pytest.mark.parametrize(
    ("uri", "written", "turned"),
    [
        ("science.md", "[b](../benchmarks/README.md#gpu)", "[b](benchmarks/index.md#gpu)"),
        ("howto/pages.md", "[s](../science.md#gains)", "[s](../science.md#gains)"),
        ("benchmarks/index.md", "[s](../docs/science.md)", "[s](../science.md)"),
        ("howto/pages.md", "[r](../../README.md)", "[r](../index.md)"),
        ("science.md", "[tests/zoo](../tests/zoo)", "`tests/zoo`"),
        ("science.md", "[the zoo](../tests/zoo)", "the zoo (`tests/zoo`)"),
        ("science.md", "[gone](../tests/nowhere)", "[gone](../tests/nowhere)"),
        ("science.md", "[x](https://a.example/../b), [y](#gains)", "[x](https://a.example/../b), [y](#gains)"),
        ("science.md", "```python\na[0](../tests/zoo)\n```", "```python\na[0](../tests/zoo)\n```"),
    ],
)
def test_links_that_lead_out_of_docs_lead_to_the_page_of_the_site(files, uri, written, turned):
    page = SimpleNamespace(file=next(file for file in files if file.src_uri == uri))
    assert hook("outside").on_page_markdown(written, page, None, files) == turned


def test_what_docstrings_say_of_pages_leads_to_their_sections():
    outside = hook("outside")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="api/analysis.md"))
    linked = outside.on_page_content("Source: docs/science.md, &quot;Feedback:\nthe replay&quot;.", page, None, None)
    assert '<a href="../science.html#feedback-the-replay">' in linked
    said = [found for path in MODULES for found in outside.REFERENCE.findall(path.read_text())]
    assert len(said) > 20
    for name, section in said:
        target = ROOT / "docs" / f"{name}.md"
        assert target.exists(), name
        assert not section or outside.SLUG(" ".join(section.split()), "-") in anchors(target), (name, section)


def test_the_site_is_built_strictly_and_aloud():
    """With --quiet mkdocs 1.6 counts no warning, so that --strict never fails."""
    built = [line for line in (ROOT / ".ci" / "run").read_text().split("\n") if "mkdocs build" in line]
    assert len(built) == 1
    assert "--strict" in built[0]
    assert not re.search(r"--quiet|\s-q\b|\|", built[0])


def test_pages_from_outside_are_files_of_the_repository():
    assert [path for path in hook("outside").OUTSIDE.values() if not Path(ROOT / path).is_file()] == []
