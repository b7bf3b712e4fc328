"""Runs of every kind: one sample, one step, without pictures or tracks, of NaN alone, several of different lengths."""

import numpy as np
import pytest

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually, same
from tests.builders import payloads


def opened(show: Shown, *made: payloads.Made, address: str = "") -> Viewer:
    return Viewer(show(payloads.payload(*made), address))


def test_one_sample_one_arm(show: Shown) -> None:
    viewer = opened(show, payloads.run(samples=1, arms=["R4S32"]))
    assert viewer.page.get_by_label("Sample", exact=True).count() == 0
    assert viewer.page.get_by_role("checkbox").count() == 0
    viewer.page.keyboard.press("j")
    assert len(viewer.cursors()) == 2


def test_one_step(show: Shown) -> None:
    made = payloads.run(steps=1, frames=1)
    viewer = opened(show, made)
    assert viewer.numbers(0)[0][0] == float(f"{made.values['raw', 'R4S32'][0, 0]:.3g}")
    for key in ("ArrowRight", "ArrowLeft", "End", " ", "Escape"):
        viewer.page.keyboard.press(key)
    viewer.drawn()
    assert viewer.step == 0
    assert all(np.isfinite(viewer.cursors()))
    assert viewer.page.get_by_role("button", name="Play").is_visible()


def test_clean_alone(show: Shown) -> None:
    """A run of the clean arm only has nothing to compare: said, not an empty page."""
    viewer = opened(show, payloads.run(arms=[]))
    assert "clean" in viewer.page.locator("#viewer").inner_text()


@pytest.mark.parametrize("left_out", ["frames", "tracks", "maps"])
def test_without_a_part(show: Shown, left_out: str) -> None:
    viewer = opened(show, payloads.run(**{left_out: 0}))
    viewer.to(3)
    assert viewer.page.locator("canvas").count() == (0 if left_out == "frames" else 3)
    assert len(viewer.cursors()) == (0 if left_out == "tracks" else 2)
    if left_out == "frames":
        assert "no pictures were recorded" in viewer.page.locator("#viewer").inner_text()
    assert viewer.page.get_by_label("On the picture").count() == (1 if left_out == "tracks" else 0)


def test_nan_alone(show: Shown) -> None:
    made = payloads.run(arms=["R4S32"])
    nothing = payloads.b64(np.full((3, 12), np.nan))
    for track in made.run["tracks"]:
        track["arms"]["R4S32"] |= dict.fromkeys(("values", "low", "middle", "high"), nothing)
        track["band"] = {}
    viewer = opened(show, made)
    viewer.to(4)
    assert viewer.page.locator(".tv-numbers li span").first.inner_text().count("–") >= 1
    assert viewer.dots(0) == []
    assert "NaN" not in viewer.page.locator(".tv").inner_html()


def test_single_values_between_nan_are_seen(show: Shown) -> None:
    """A value whose neighbours are undefined makes no line, and must not vanish."""
    made = payloads.run(arms=["R4S32"], steps=5)
    values = np.full((3, 5), np.nan)
    values[:, 2] = 0.3
    payload = payloads.payload(made)
    payload["runs"][0]["tracks"][0]["arms"]["R4S32"]["values"] = payloads.b64(values)
    viewer = Viewer(show(payload, "#step=2"))
    assert viewer.numbers(0)[0][0] == 0.3
    assert len(viewer.dots(0)) == 1
    viewer.to(0)
    alone = viewer.page.locator(".tv-own").first
    assert alone.evaluate("node => [node.getTotalLength(), getComputedStyle(node).strokeLinecap]") == [0, "round"]
    assert alone.get_attribute("d").endswith("h0"), "a line of no length with round ends is a dot"


def test_infinite_and_zero_on_a_logarithmic_scale(show: Shown) -> None:
    made = payloads.run(arms=["R4S32"], steps=6)
    values = np.array([[0, 1e-3, np.inf, -1, 1, 10]] * 3)
    made.run["tracks"][0]["arms"]["R4S32"]["values"] = payloads.b64(values)
    viewer = opened(show, made)
    markup = viewer.page.locator(".tv").inner_html()
    assert "NaN" not in markup
    assert "Infinity" not in markup


def test_a_track_that_never_changes(show: Shown) -> None:
    made = payloads.run(arms=["R4S32"])
    flat = payloads.b64(np.full((3, 12), 2.5))
    for track in made.run["tracks"]:
        track["arms"]["R4S32"] |= dict.fromkeys(("values", "low", "middle", "high"), flat)
    viewer = opened(show, made)
    assert viewer.numbers(0)[0] == [2.5] * 4
    assert len(set(viewer.curve(0)[:, 1])) == 1


def test_an_arm_without_a_track_or_a_strip(show: Shown) -> None:
    made = payloads.run()
    for track in made.run["tracks"]:
        del track["arms"]["R0S63"]
        track["band"].pop("R0S63", None)
    made.run["pictures"]["strips"]["R0S63"] = [None] * 3
    viewer = opened(show, made, address="#arm=R0S63")
    assert "Not recorded for this arm" in viewer.page.locator(".tv-tracks").inner_text()
    viewer.tick("R4S32", "R0S63")
    assert len(viewer.numbers(0)) == 1


def test_several_runs_of_different_lengths(show: Shown) -> None:
    short, long = payloads.run("short", steps=6, frames=3, seed=1), payloads.run("long", steps=12, frames=4, seed=2)
    viewer = opened(show, short, long)
    assert viewer.arms() == ["short:R4S32", "short:R0S63", "long:R4S32", "long:R0S63"]
    viewer.tick("short:R4S32", "long:R4S32")
    for step, of_short, frame in ((0, 0, 0), (11, 5, 2)):
        viewer.to(step)
        raw = [short.values["raw", "R4S32"][0, of_short], long.values["raw", "R4S32"][0, step]]
        assert [numbers[0] for numbers in viewer.numbers(0)] == [float(f"{value:.3g}") for value in raw]
        wanted = short.frames["R4S32"][0, frame]
        assert eventually(lambda wanted=wanted: same(viewer.pictures(0)[1], wanted))
        ends = [viewer.curve(0, line)[0 if step == 0 else -1, 0] for line in range(2)]
        assert ends == pytest.approx([viewer.cursors()[0]] * 2, abs=0.1)


def test_runs_with_other_samples(show: Shown) -> None:
    one, other = payloads.run("one", samples=2), payloads.run("other", samples=4)
    viewer = opened(show, one, other, address="#sample=3&arm=one:R4S32&arm=other:R4S32")
    assert "not among" in viewer.page.locator(".tv-pictures").inner_text()
    assert len(viewer.dots(0)) == 2


def test_mounted_twice_and_taken_away(show: Shown) -> None:
    """Two viewers on one page do not hear each other's keys, and one that is taken away leaves nothing behind."""
    viewer = opened(show, payloads.run())
    left = viewer.page.evaluate(
        """async () => {
          const text = document.querySelector("script[type=module]").textContent.split("\\nmount(document")[0];
          const module = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
          const payload = JSON.parse(document.getElementById("payload").textContent);
          const [one, two] = [document.createElement("div"), document.createElement("div")];
          document.body.append(one, two);
          const undo = module.mount(one, payload);
          module.default.render({ model: { get: () => JSON.stringify(payload) }, el: two });
          const steps = () => [one, two].map(each => +each.querySelector("[type=range]")?.value);
          one.querySelector("section").dispatchEvent(new KeyboardEvent("keydown", { key: "Home", bubbles: true }));
          await new Promise(done => setTimeout(done, 100));
          const apart = steps();
          undo();
          return { apart, left: one.childElementCount, hash: location.hash };
        }"""
    )
    assert left["apart"] == [0, 11]
    assert left["left"] == 0
