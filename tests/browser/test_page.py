"""The page of `analysis.report` in a browser: viewer on the screen, the static page in print and without scripts."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from axe_playwright_python.sync_playwright import Axe

from analysis.page import report
from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tests.builders import payloads, synthetic

SECTIONS = ("growth", "decompose")


def pictured(name: str = "by-hand", samples: int = 4, steps: int = 8, prompts: Sequence[str] = ()) -> xr.DataTree:
    """A run of the exact Gaussian system with decoded results, prompts and this name."""
    run = synthetic.gaussian_run(samples=samples, steps=steps)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    pixels = rng.integers(0, 256, (run.sizes["arm"], samples, 8, 8, 3), dtype=np.uint8)
    run["images"] = (
        run["metrics"]
        .to_dataset()[["arm", "sample"]]
        .assign(image=(("arm", "sample", "image_y", "image_x", "rgb"), pixels))
    )
    for node in (run, run["metrics"], run["images"]):
        named = {"prompt": ("sample", list(prompts) or ["a hand"] * samples)}
        node.dataset = node.to_dataset(inherit=False).assign_coords(named)
    run.name = name.replace("/", "\u2215")  # a name of a tree has none
    return run


@pytest.fixture(scope="module")
def page() -> str:
    return report(pictured(), SECTIONS)


@pytest.fixture(scope="module")
def several() -> str:
    return report([pictured("short", steps=6), pictured("long", steps=12)], ("growth",))


def test_the_screen_shows_viewer_and_measures(show: Shown, page: str) -> None:
    viewer = Viewer(show(page))
    assert viewer.page.locator("#viewer").is_visible()
    assert viewer.page.locator("canvas").count() == 3
    for section in SECTIONS:
        assert viewer.page.locator(f"#{section}").is_visible()
    viewer.to(3)
    assert len(set(viewer.cursors())) == 1


def test_print_shows_the_static_page_and_not_the_viewer(show: Shown, page: str) -> None:
    shown = show(page)
    shown.emulate_media(media="print")
    assert not shown.locator("#viewer").is_visible()
    assert shown.locator(".told").is_visible()
    for section in SECTIONS:
        assert shown.locator(f"#{section}").is_visible()
    assert shown.pdf().startswith(b"%PDF")


def test_without_scripts_the_static_page_is_complete(show: Shown, page: str) -> None:
    shown = show(page, java_script_enabled=False)
    assert not shown.locator("#viewer").is_visible()
    assert shown.locator(".told dd").count() == 5
    assert shown.locator(".told").is_visible()
    for section in SECTIONS:
        assert shown.locator(f"#{section}").is_visible()
        assert shown.locator(f"#{section} ~ figure").first.is_visible()
        assert shown.locator(f"#{section} ~ * table, #{section} ~ table").count()
    assert shown.locator("#viewer ~ main img").first.is_visible()


def test_what_the_viewer_says_without_scripts_is_what_it_says_with_them(show: Shown, page: str) -> None:
    """The sentences stand on the page once as text and once in the viewer: the same ones."""
    said = [re.sub(r"\s+", " ", " ".join(show(page, java_script_enabled=scripts).locator(place).all_inner_texts()))
            for scripts, place in ((True, "#viewer dd"), (False, ".told dd"))]  # fmt: skip
    assert said[0] == said[1] != ""


@pytest.mark.parametrize(("which", "scheme"), [("page", "light"), ("several", "dark")])
def test_axe_finds_nothing(show: Shown, which: str, scheme: str, request: pytest.FixtureRequest) -> None:
    shown = show(request.getfixturevalue(which), color_scheme=scheme)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = Axe().run(shown, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    assert [(each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found] == []


@pytest.mark.parametrize(("which", "scripts"), [("page", True), ("page", False), ("several", True)])
def test_a_phone_scrolls_downwards_only(show: Shown, which: str, scripts: bool, request: pytest.FixtureRequest) -> None:
    options = {"java_script_enabled": scripts, "width": 390, "height": 844, "has_touch": True}
    shown = show(request.getfixturevalue(which), is_mobile=True, **options)
    assert shown.evaluate("document.documentElement.scrollWidth") == 390


def test_several_runs_side_by_side(show: Shown, several: str) -> None:
    viewer = Viewer(show(several))
    assert viewer.arms() == ["short:R4S32", "long:R4S32"]
    viewer.tick("short:R4S32", "long:R4S32")
    assert viewer.page.locator("canvas").count() == 6
    assert len(viewer.numbers(0)) == 2


def test_hostile_prompts_and_a_hostile_name_do_nothing(show: Shown) -> None:
    texts, name = payloads.MARKUP, "".join(payloads.MARKUP)
    page = show(report(pictured(name, samples=len(texts), prompts=texts), sections=()))
    assert page.evaluate("window.hurt") is None
    assert page.locator("[onerror], [onload], [onmouseover], a[href^=javascript]").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("h1").text_content() == name.replace("/", "\u2215")
    labels = page.get_by_label("Sample", exact=True).locator("option").all_text_contents()
    assert [text in label for text, label in zip(texts, labels, strict=True)] == [True] * len(texts)


def test_an_address_survives_a_link_to_a_section(show: Shown, page: str) -> None:
    """A link within the page goes where it says; the viewer stands at its defaults and takes no harm."""
    viewer = Viewer(show(page, "#step=2"))
    viewer.page.locator("nav a").first.click()
    assert eventually(lambda: viewer.step == 7)


def test_the_page_of_a_file_needs_no_other(tmp_path: Path, show: Shown, page: str) -> None:
    file = tmp_path / "a name with spaces & (brackets) #1.html"
    file.write_text(page, encoding="utf-8")
    assert Viewer(show(file)).page.locator("canvas").count() == 3
