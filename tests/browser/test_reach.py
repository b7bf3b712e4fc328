"""Everyone reaches everything: on a phone, with keys alone, with a screen reader, in the dark, without motion."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tests.builders import payloads

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
FULL = "#arm=R4S32&arm=R0S63&map=words&word=1&step=5"


def full(**changes: object) -> dict:
    """Everything the viewer can show."""
    one = payloads.run("one", words=["a", "red", "fox"], **changes)
    return payloads.payload(one)


def several() -> dict:
    return payloads.payload(payloads.run("one"), payloads.run("other", steps=8, frames=2, seed=1))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("payload", [full, several], ids=["one", "several"])
def test_axe_finds_nothing(show: Shown, scheme: str, payload) -> None:
    page = show(payload(), FULL, color_scheme=scheme)
    Viewer(page).drawn()
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": TAGS}}).response["violations"]
    assert [(each["id"], each["help"], each["nodes"][0]["html"][:200]) for each in found] == []


@pytest.mark.parametrize("payload", [full, several], ids=["one", "several"])
@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_scrolls_downwards_only(show: Shown, width: int, payload) -> None:
    page = show(payload(), FULL, width=width, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.locator(".tv *").evaluate_all(
        "nodes => nodes.filter(node => node.getBoundingClientRect().right > innerWidth + 0.5 && !node.closest('pre'))"
        ".map(node => node.outerHTML.slice(0, 100))"
    )
    assert beyond == []


@pytest.mark.parametrize("width", [390, 1400])
def test_text_is_large_enough_to_read(show: Shown, width: int) -> None:
    page = show(full(), FULL, width=width)
    sizes = page.locator(".tv *").evaluate_all(
        "nodes => nodes.filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()))"
        ".map(node => [parseFloat(getComputedStyle(node).fontSize), node.outerHTML.slice(0, 100)])"
    )
    assert [each for each in sizes if each[0] < 12] == []


def test_a_finger_hits_what_it_aims_at(show: Shown) -> None:
    """At least 24 by 24 CSS pixels, WCAG 2.2, 2.5.8; a label belongs to its box."""
    page = show(several(), FULL, width=390, height=844, has_touch=True, is_mobile=True)
    small = page.locator("button, select, input, summary, .tv-plot").evaluate_all(
        "nodes => nodes.map(node => node.type === 'checkbox' ? node.closest('label') : node)"
        ".map(node => [node.getBoundingClientRect(), node.outerHTML.slice(0, 80)])"
        ".filter(([box]) => box.width < 24 || box.height < 24).map(([box, text]) => [box.width, box.height, text])"
    )
    assert small == []


def test_a_finger_on_a_plot_moves_the_step(show: Shown) -> None:
    page = show(full(), width=390, height=844, has_touch=True, is_mobile=True)
    viewer = Viewer(page)
    page.locator(".tv-plot").first.scroll_into_view_if_needed()
    box = page.locator(".tv-plot").first.bounding_box()
    page.touchscreen.tap(box["x"] + viewer.curve(0)[4, 0], box["y"] + 40)
    assert eventually(lambda: viewer.step == 4)


def test_the_slider_stays_in_sight(show: Shown) -> None:
    page = show(full(), width=390, height=844)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    box = Viewer(page).slider.bounding_box()
    assert 0 <= box["y"] < 844 - box["height"]


def test_tab_reaches_everything_and_shows_where_it_is(show: Shown) -> None:
    page = show(full(), FULL)
    wanted = page.locator("button, select, input, summary, pre").count()
    reached = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        at = page.evaluate(
            "(([node, style]) => [node.outerHTML, style.outlineStyle, parseFloat(style.outlineWidth)])"
            "([document.activeElement, getComputedStyle(document.activeElement)])"
        )
        reached.append(at)
    assert len({text for text, *_ in reached}) == wanted
    assert [each for each in reached if each[1] == "none" or each[2] < 2] == []


def test_a_screen_reader_is_told_the_step_and_not_while_it_plays(show: Shown) -> None:
    page = show(full(), "#step=3")
    viewer = Viewer(page)
    assert viewer.slider.get_attribute("aria-valuetext") == "step 3 of 11"
    page.get_by_role("button", name="Play").click()
    assert eventually(lambda: viewer.step > 4)
    assert page.locator(".tv").evaluate(
        "node => [...node.querySelectorAll('output, [role=status], [role=alert], [aria-live]')]"
        ".every(each => each.ariaLive === 'off')"
    )


def test_pictures_and_plots_say_what_they_are(show: Shown) -> None:
    page = show(full(), FULL)
    Viewer(page).drawn()
    names = [page.locator("canvas").nth(n).get_attribute("aria-label") for n in range(3)]
    assert names == [f"{name}, x0 prediction in step 5" for name in ("clean", "R4S32", "difference")]
    plots = [page.locator(".tv-plot svg").nth(n).get_attribute("aria-label") for n in range(2)]
    assert plots[0] == "State error (sd of clean states) over the steps"
    assert plots[1] == "Injected, propagated, interaction of R4S32 over the steps"


def test_nothing_moves_by_itself(show: Shown) -> None:
    page = show(full(), FULL, reduced_motion="reduce")
    running = page.evaluate("document.getAnimations().length")
    moving = page.locator(".tv, .tv *").evaluate_all(
        "nodes => nodes.filter(node => parseFloat(getComputedStyle(node).transitionDuration) > 0).length"
    )
    assert (running, moving) == (0, 0)
    viewer = Viewer(page)
    before = viewer.step
    page.wait_for_timeout(300)
    assert viewer.step == before


@pytest.mark.parametrize(("scheme", "lighter"), [("light", "paper"), ("dark", "ink")])
def test_dark_and_light(show: Shown, scheme: str, lighter: str) -> None:
    page = show(full(), color_scheme=scheme)
    ink, paper = page.locator(".tv").evaluate(
        "node => ['color', 'backgroundColor'].map(name => getComputedStyle(node)[name].match(/\\d+/g).map(Number))"
    )
    assert (sum(paper[:3]) > sum(ink[:3])) == (lighter == "paper")
    assert abs(sum(paper[:3]) - sum(ink[:3])) > 500
