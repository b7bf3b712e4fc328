"""A real Chromium, started once for the tests of this folder; pages come from files, and the network is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.browser import chromium
from tests.browser.pages import Shown


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for this folder. Without one: skipped, or an error where TRACE_BROWSER=required, as in CI."""
    if chromium.path() is None:
        if os.environ.get("TRACE_BROWSER") == "required":
            raise RuntimeError(f"TRACE_BROWSER=required, but {chromium.MISSING}")
        pytest.skip(chromium.MISSING)
    with chromium.started() as started:
        yield started


@pytest.fixture(scope="package")
def contexts() -> dict[str, BrowserContext]:
    """Those of the browser that tests share."""
    return {}


@pytest.fixture
def show(browser: Browser, contexts: dict[str, BrowserContext], tmp_path: Path) -> Iterator[Shown]:
    """Opens pages; at the end nothing may have been said on a console, thrown, or asked of the network."""
    shown = Shown(browser, tmp_path, contexts=contexts)
    yield shown
    shown.close()
    assert not shown.wrong, "\n".join(shown.wrong)
