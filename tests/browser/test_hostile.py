"""Texts that come from prompts, names and commands are shown as they are and do nothing."""

import pytest

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tests.builders import payloads


@pytest.mark.parametrize("text", payloads.HOSTILE, ids=payloads.shorten)
def test_a_hostile_text_is_shown_does_nothing_and_survives_in_the_address(show: Shown, text: str) -> None:
    viewer = Viewer(show(payloads.payload(payloads.hostile(text))))
    viewer.choose("On the picture", "words")
    viewer.choose("Sample", 1)
    viewer.page.get_by_role("checkbox").nth(1).click()
    viewer.to(1)
    viewer.page.keyboard.press("Tab")
    page = viewer.page
    assert page.evaluate("window.hurt") is None
    assert page.locator("[onerror], [onload], [onmouseover], .tv img, .tv script, .tv a[href]").count() == 0
    assert page.locator("dd").first.text_content() == text
    assert page.locator("pre code").text_content() == text
    for name in ("Sample", "Word"):
        assert page.get_by_label(name, exact=True).locator("option").first.text_content() == text
    assert page.get_by_role("group", name="Arms").locator("label").first.text_content() == text
    assert len(viewer.cursors()) == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert viewer.ticks() == [True, True]
    page.get_by_role("checkbox").nth(0).click()
    assert eventually(lambda: viewer.address().get("arm") == [f"{text} 2"])
    page.reload()
    assert viewer.ticks() == [False, True]


def test_text_that_turns_writing_around_turns_only_itself(show: Shown) -> None:
    """A right-to-left override in a name must not reorder what stands in the same line."""
    viewer = Viewer(show(payloads.payload(payloads.hostile("\u202egnp.tac"))))
    loose = viewer.page.locator(".tv *").evaluate_all(
        """nodes => nodes
          .filter(node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.includes("\u202e")))
          .filter(node => node.localName !== "option" && getComputedStyle(node).display.startsWith("inline")
            && getComputedStyle(node).unicodeBidi === "normal")
          .map(node => node.outerHTML.slice(0, 80))"""
    )
    assert loose == []
    label, number = (viewer.page.locator(f".tv-numbers li {tag}").first.bounding_box() for tag in ("bdi", "span"))
    assert label["x"] + label["width"] <= number["x"]
