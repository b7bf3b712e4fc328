"""Keys, the slider and the play button move the step; nothing that is typed elsewhere does."""

import pytest

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tests.builders import payloads


@pytest.fixture
def viewer(show: Shown) -> Viewer:
    return Viewer(show(payloads.payload(payloads.run(steps=30)), "#step=15"))


def press(viewer: Viewer, *keys: str) -> int:
    for key in keys:
        viewer.page.keyboard.press(key)
    viewer.drawn()
    return viewer.step


def test_arrows_home_and_end(viewer: Viewer) -> None:
    assert press(viewer, "ArrowRight", "ArrowRight", "ArrowLeft") == 16
    assert press(viewer, "Shift+ArrowLeft") == 6
    assert press(viewer, "End", "ArrowRight") == 29
    assert press(viewer, "Home", "ArrowLeft") == 0


def test_keys_on_the_slider_count_once(viewer: Viewer) -> None:
    viewer.slider.focus()
    assert press(viewer, "ArrowRight") == 16
    assert press(viewer, "ArrowUp") == 17
    assert press(viewer, "Home") == 0
    assert viewer.cursors() == pytest.approx([viewer.curve(0)[0, 0]] * 2, abs=0.1)


def test_next_and_previous_sample(viewer: Viewer) -> None:
    press(viewer, "j", "j", "j")
    assert viewer.chosen("Sample") == "2"
    press(viewer, "k")
    assert viewer.chosen("Sample") == "1"


def test_space_plays_and_escape_stops(viewer: Viewer) -> None:
    press(viewer, "Home", " ")
    assert eventually(lambda: viewer.step > 1)
    stopped = press(viewer, "Escape")
    viewer.page.wait_for_timeout(400)
    assert viewer.step == stopped < 29


def test_playing_ends_at_the_last_step_and_begins_anew(show: Shown) -> None:
    viewer = Viewer(show(payloads.payload(payloads.run(steps=3)), "#step=2"))
    viewer.page.clock.install()
    button = viewer.page.get_by_role("button", name="Play")
    button.click()
    viewer.page.clock.run_for(100)
    assert viewer.step == 0
    viewer.page.clock.run_for(20_000)
    assert viewer.step == 2
    assert button.is_visible()


def test_a_key_in_a_chooser_is_the_chooser_s(viewer: Viewer) -> None:
    viewer.page.get_by_label("Sample", exact=True).focus()
    assert press(viewer, "ArrowDown") == 15
    assert viewer.chosen("Sample") == "1"


def test_shortcuts_of_the_browser_stay_its_own(viewer: Viewer) -> None:
    assert press(viewer, "Control+Home", "Alt+ArrowUp", "Meta+ArrowRight") == 15


def test_space_on_a_button_or_a_box_is_theirs(viewer: Viewer) -> None:
    viewer.page.get_by_role("checkbox", name="R0S63").focus()
    press(viewer, " ")
    assert viewer.ticked() == ["R4S32", "R0S63"]
    assert viewer.page.get_by_role("button", name="Play").is_visible()
    viewer.page.get_by_role("button", name="Play").focus()
    press(viewer, " ")
    assert viewer.page.get_by_role("button", name="Stop").is_visible()


def test_the_focus_stays_where_it_was(viewer: Viewer) -> None:
    viewer.page.get_by_role("checkbox", name="R0S63").focus()
    press(viewer, " ", "j")
    assert viewer.page.evaluate("document.activeElement.closest('label').innerText") == "R0S63"
