"""`trace view` in a browser: the list of runs, a run, several side by side; nothing is asked of another address."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tracer.cli.viewing.catalogue import Catalogue
from tracer.cli.viewing.server import listening
from tracer.cli.viewing.site import Site

RUN = Path(__file__).parents[1] / "data" / "run-v1"
"""A run of 2 samples x 4 steps with pictures, made by version 1."""
HOSTILE = "a <img src=x onerror=alert(1)> & b"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server of three runs, one of a hostile name."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("one", "two", HOSTILE):
        shutil.copytree(RUN, folder / name)
    server = listening(Site(Catalogue([folder]), "runs"), 0)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield server.address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def show(show: Shown, address: str) -> Shown:
    show.allowed += (address,)
    return show


def opened(show: Shown, address: str, *names: str) -> Viewer:
    """The runs of these names, ticked or clicked in the list."""
    page = show.visit(address)
    page.set_default_timeout(20_000)  # the first time, a run is read and analysed
    if len(names) == 1:
        page.get_by_role("link", name=names[0], exact=True).click()
    else:
        for name in names:
            page.get_by_label(f"compare {name}", exact=True).check()
        page.get_by_role("button").click()
    page.locator(".tv").wait_for()
    return Viewer(page)


def test_from_the_list_to_a_run_and_back(show: Shown, address: str) -> None:
    viewer = opened(show, address, "one")
    assert viewer.page.locator("canvas").count() == 3
    viewer.all_drawn()
    viewer.to(1)
    assert eventually(lambda: viewer.address().get("step") == ["1"])
    viewer.page.reload()
    viewer.page.locator(".tv").wait_for()
    assert viewer.step == 1
    viewer.page.get_by_role("link", name="All runs").click()
    assert viewer.page.get_by_role("link", name="two", exact=True).is_visible()


def test_two_runs_side_by_side(show: Shown, address: str) -> None:
    viewer = opened(show, address, "one", "two")
    viewer.tick(*viewer.arms()[:1], *[arm for arm in viewer.arms() if arm.startswith("two:")][:1])
    assert viewer.page.locator("canvas").count() == 6
    viewer.all_drawn()


def test_a_run_of_a_hostile_name(show: Shown, address: str) -> None:
    viewer = opened(show, address, HOSTILE)
    assert viewer.page.locator("h1").text_content() == HOSTILE
    assert viewer.page.locator("[onerror]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(show: Shown, address: str, scheme: str) -> None:
    """Of the list, and of a run."""
    tags = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
    for names in ([], ["one"]):
        viewer = opened(show, address, *names) if names else Viewer(show.visit(address, color_scheme=scheme))
        viewer.page.emulate_media(color_scheme=scheme)
        viewer.drawn()
        found = Axe().run(viewer.page, options=tags).response["violations"]
        assert [(each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found] == []


@pytest.mark.parametrize("names", [[], ["one"], ["one", "two"]], ids=["list", "one", "several"])
def test_a_phone_scrolls_downwards_only(show: Shown, address: str, names: list[str]) -> None:
    page = opened(show, address, *names).page if names else show.visit(address)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
