"""The list of `trace view` in a browser: filter, a damaged run, no scripts, and a run that cannot be viewed."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from interventions.errors import RunError
from tracer.cli.viewing.catalogue import Catalogue
from tracer.cli.viewing.server import listening
from tracer.cli.viewing.site import Site

OLD = Path(__file__).parents[1] / "data" / "run-v1"
"""A run of 2 samples x 4 steps with pictures, made by version 1."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where two runs and a damaged one are served."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "two", "broken"):
        shutil.copytree(OLD, folder / name)
    (folder / "broken" / "trace.zarr" / "zarr.json").write_text("{")
    server = listening(Site(Catalogue([folder]), "runs"), 0)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield server.address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; at the end nothing may have been said on its console, which is where a policy complains, or thrown."""
    wrong: list[str] = []
    opened = browser.new_context(viewport={"width": 1400, "height": 900})
    opened.on("console", lambda said: wrong.append(f"console {said.type}: {said.text}"))
    opened.on("weberror", lambda thrown: wrong.append(f"error: {thrown.error}"))
    page = opened.new_page()
    page.set_default_timeout(20_000)
    yield page
    opened.close()
    assert not wrong, "\n".join(wrong)


def test_the_filter_keeps_what_holds_every_word(page: Page, address: str) -> None:
    page.goto(address)
    for typed, names in (("two dit", ["two"]), ("damaged", ["broken"]), ("", ["one", "two", "broken"])):
        page.get_by_label("Filter").fill(typed)
        rows = page.locator("tbody tr:visible")
        assert sorted(rows.locator("td:nth-child(2)").all_inner_texts()) == sorted(names)


def test_the_list_works_without_scripts(browser: Browser, address: str) -> None:
    opened = browser.new_context(java_script_enabled=False)
    page = opened.new_page()
    page.goto(address)
    assert not page.get_by_label("Filter").is_visible()  # it could do nothing
    page.get_by_role("link", name="one", exact=True).click()
    assert page.get_by_role("link", name="one", exact=True).get_attribute("href") == "/report?run=one"
    opened.close()


def test_a_run_without_a_view_says_why_where_it_would_be(browser: Browser, address: str, monkeypatch) -> None:
    def fail(*words: object, **options: object) -> None:
        raise RunError("no sample of this run is complete")

    monkeypatch.setattr("analysis.viewer.payload.payload", fail)
    opened = browser.new_context()
    page = opened.new_page()
    page.goto(f"{address}view?run=two&from=1")
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text() == "no sample of this run is complete"
    opened.close()
