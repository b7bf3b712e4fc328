"""The address carries what is shown: it is read when the page opens, and written when something changes."""

import pytest

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually
from tests.builders import payloads


def test_an_address_restores_everything(show: Shown) -> None:
    made = payloads.run(samples=4, words=["a", "red", "fox"])
    address = "#sample=3&arm=R4S32&arm=R0S63&step=7&error=whitened&map=words&word=2&gain=4"
    viewer = Viewer(show(payloads.payload(made), address))
    assert viewer.step == 7
    assert viewer.ticked() == ["R4S32", "R0S63"]
    labels = ("Sample", "Error", "On the picture", "Word", "Difference")
    assert [viewer.chosen(label) for label in labels] == ["3", "whitened", "words", "2", "4"]


def test_what_changes_is_written_and_opens_the_same_again(show: Shown) -> None:
    made = payloads.payload(payloads.run(samples=4))
    viewer = Viewer(show(made))
    viewer.choose("Sample", 2)
    viewer.choose("Error", "D")
    viewer.tick("R0S63")
    viewer.choose("On the picture", "sinks")
    viewer.to(5)
    assert eventually(lambda: viewer.address().get("step") == ["5"])
    assert viewer.address() == {"sample": ["2"], "error": ["D"], "arm": ["R0S63"], "map": ["sinks"], "step": ["5"]}
    again = Viewer(show(made, viewer.page.evaluate("location.hash")))
    assert (again.step, again.ticked()) == (5, ["R0S63"])
    assert [again.chosen(label) for label in ("Sample", "Error", "On the picture")] == ["2", "D", "sinks"]


def test_back_and_forward_walk_through_choices_not_through_steps(show: Shown) -> None:
    viewer = Viewer(show(payloads.payload(payloads.run(samples=4))))
    viewer.choose("Sample", 1)
    for step in (3, 4, 5):
        viewer.to(step)
        viewer.page.wait_for_timeout(250)
    viewer.choose("Sample", 2)
    viewer.page.go_back()
    assert eventually(lambda: viewer.chosen("Sample") == "1")
    assert viewer.step == 5
    viewer.page.go_back()
    assert eventually(lambda: viewer.chosen("Sample") == "0")
    viewer.page.go_forward()
    assert eventually(lambda: viewer.chosen("Sample") == "1")


def test_an_address_typed_into_an_open_page_is_followed(show: Shown) -> None:
    viewer = Viewer(show(payloads.payload(payloads.run())))
    viewer.page.evaluate("location.hash = 'sample=1&step=2'")
    assert eventually(lambda: viewer.chosen("Sample") == "1")
    assert viewer.step == 2


@pytest.mark.parametrize(
    "address",
    [
        "#sample=99&arm=nobody&step=999&error=nothing&map=none&gain=3",
        "#step=-1&step=x",
        "#step=3.4",
        "#step=NaN&sample=&arm=&word=-4&gain=Infinity",
        "#step=1e400&error=__proto__&map=constructor",
        "#%E0%A4%A&&&=&=#",
        "#section-of-the-page",
        "#" + "arm=" + "x" * 20000,
    ],
)
def test_what_an_address_may_not_say_is_ignored(show: Shown, address: str) -> None:
    viewer = Viewer(show(payloads.payload(payloads.run(steps=12)), address))
    assert viewer.step == 11
    assert viewer.ticked() == ["R4S32"]
    assert (viewer.chosen("Sample"), viewer.chosen("Error"), viewer.chosen("On the picture")) == ("0", "raw", "")
    assert len(viewer.cursors()) == 2
