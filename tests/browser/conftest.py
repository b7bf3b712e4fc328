"""A real Chromium, started once for the tests of this folder; pages come from files, and the network is refused."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.pages import Shown

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for this folder. Without one: skipped, or an error where TRACE_BROWSER=required, as in CI."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"no browser: none of {', '.join(NAMES)} on PATH; install Debian's chromium"
        if os.environ.get("TRACE_BROWSER") == "required":
            raise RuntimeError(f"TRACE_BROWSER=required, but {reason}")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Shown]:
    """Opens pages; at the end nothing may have been said on a console, thrown, or asked of the network."""
    shown = Shown(browser, tmp_path)
    yield shown
    shown.close()
    assert not shown.wrong, "\n".join(shown.wrong)
