"""The slider over the steps: pictures, cursors and numbers are those that were put in, of the step it stands at."""

import numpy as np
import pytest

from tests.browser.pages import Shown
from tests.browser.viewer import Viewer, eventually, same
from tests.builders import payloads


def difference(clean: np.ndarray, arm: np.ndarray, gain: int = 1) -> np.ndarray:
    return np.minimum(255, np.abs(clean.astype(int) - arm) * gain).astype(np.uint8)


def test_pictures_are_the_last_frames_taken_up_to_the_step(show: Shown) -> None:
    made = payloads.run(steps=12, frames=4)
    viewer = Viewer(show(payloads.payload(made)))
    clean, arm = made.frames["clean"][0], made.frames["R4S32"][0]
    for step, frame in ((2, 0), (4, 0), (5, 1), (8, 2), (11, 3), (7, 1)):
        viewer.to(step)
        wanted = (clean[frame], arm[frame], difference(clean[frame], arm[frame]))
        assert eventually(lambda wanted=wanted: all(map(same, viewer.pictures(), wanted))), (step, frame)


def test_pictures_follow_sample_and_arms(show: Shown) -> None:
    made = payloads.run()
    viewer = Viewer(show(payloads.payload(made)))
    viewer.choose("Sample", 2)
    viewer.tick("R4S32", "R0S63")
    clean = made.frames["clean"][2, -1]
    for row, name in enumerate(("R4S32", "R0S63")):
        arm = made.frames[name][2, -1]
        wanted = (clean, arm, difference(clean, arm))
        assert eventually(lambda row=row, wanted=wanted: all(map(same, viewer.pictures(row), wanted))), name


@pytest.mark.parametrize("gain", [2, 4, 8])
def test_difference_is_brighter_by_the_factor_that_is_written_under_it(show: Shown, gain: int) -> None:
    made = payloads.run()
    viewer = Viewer(show(payloads.payload(made)))
    viewer.choose("Difference", gain)
    wanted = difference(made.frames["clean"][0, -1], made.frames["R4S32"][0, -1], gain)
    assert eventually(lambda: same(viewer.pictures()[2], wanted))
    assert viewer.captions()[2] == f"difference × {gain}"


def test_cursor_of_every_plot_is_at_the_step(show: Shown) -> None:
    made = payloads.run(steps=12)
    viewer = Viewer(show(payloads.payload(made)))
    for step in (0, 3, 11, 6):
        viewer.to(step)
        for panel, cursor in enumerate(viewer.cursors()):
            curve = viewer.curve(panel)
            assert cursor == pytest.approx(curve[step, 0], abs=0.1)
            assert viewer.dots(panel)[0] == pytest.approx(tuple(curve[step]), abs=0.1)


def test_curves_are_the_values_on_a_logarithmic_scale(show: Shown) -> None:
    made = payloads.run(steps=12)
    height = Viewer(show(payloads.payload(made))).curve(0)[:, 1]
    values = np.log(made.values["raw", "R4S32"][0])
    slope, start = np.polyfit(values, height, 1)
    assert slope < 0
    np.testing.assert_allclose(height, slope * values + start, atol=0.1)


def test_numbers_at_the_cursor_are_the_payload_s(show: Shown) -> None:
    made = payloads.run(steps=12)
    viewer = Viewer(show(payloads.payload(made)))
    viewer.tick("R4S32", "R0S63")
    viewer.choose("Sample", 1)
    for step in (0, 7, 11):
        viewer.to(step)
        assert viewer.numbers(0) == [written(made.values["raw", arm], 1, step) for arm in ("R4S32", "R0S63")]
        parts = ("injected", "propagated", "interaction")
        assert viewer.numbers(1) == [written(made.values[part, "R4S32"], 1, step) for part in parts]
    viewer.choose("Error", "whitened")
    assert viewer.numbers(0)[1] == written(made.values["whitened", "R0S63"], 1, 11)


def written(values: np.ndarray, sample: int, step: int) -> list[float]:
    """The sample's value, then median and quartiles of all, in three digits."""
    low, middle, high = np.quantile(values[:, step], (0.25, 0.5, 0.75)).astype("f4")
    return [float(f"{value:.3g}") for value in (values[sample, step], middle, low, high)]


def test_moving_over_a_plot_moves_everything(show: Shown) -> None:
    made = payloads.run(steps=12)
    viewer = Viewer(show(payloads.payload(made)))
    box = viewer.page.locator(".tv-plot").nth(1).bounding_box()
    x, _ = viewer.curve(1)[4]
    viewer.page.mouse.move(box["x"] + x, box["y"] + 40)
    viewer.drawn()
    assert viewer.step == 4
    assert viewer.cursors() == pytest.approx([x] * len(viewer.cursors()), abs=0.1)
    assert eventually(lambda: same(viewer.pictures()[0], made.frames["clean"][0, 0]))


def test_map_lies_on_clean_and_arm_and_not_on_the_difference(show: Shown) -> None:
    made = payloads.run(maps=True)
    viewer = Viewer(show(payloads.payload(made)))
    assert eventually(lambda: same(viewer.pictures()[0], made.frames["clean"][0, -1]))
    viewer.choose("On the picture", "mass")
    assert eventually(lambda: not same(viewer.pictures()[0], made.frames["clean"][0, -1]))
    assert eventually(lambda: not same(viewer.pictures()[1], made.frames["R4S32"][0, -1]))
    wanted = difference(made.frames["clean"][0, -1], made.frames["R4S32"][0, -1])
    assert same(viewer.pictures()[2], wanted)


def test_map_of_a_word_is_that_word_s(show: Shown) -> None:
    """Of three words stacked downwards the middle one is light in its last cell alone."""
    made = payloads.run(frames=1, steps=4, arms=["R4S32"], words=["a", "red", "fox"])
    made.run["pictures"]["strips"] = dict.fromkeys(
        ("clean", "R4S32"), [payloads.strip(np.zeros((1, 8, 8, 3), np.uint8))] * 3
    )
    grey = np.zeros((1, 12, 4), np.uint8)
    grey[0, 7, 3] = 255
    made.run["maps"][2]["strips"] = dict.fromkeys(("clean", "R4S32"), [payloads.strip(grey)] * 3)
    viewer = Viewer(show(payloads.payload(made), "#map=words"))
    viewer.all_drawn()
    assert not viewer.pictures()[1].any()
    viewer.choose("Word", 1)
    assert eventually(lambda: viewer.pictures()[1].any())
    light = viewer.pictures()[1].any(axis=2)
    side = light.shape[0] // 4
    assert light[3 * side :, 3 * side :].all()
    assert light.sum() == side**2


@pytest.mark.parametrize("kind", ["mass", "sinks"])
def test_map_is_brighter_where_more_is_received(show: Shown, kind: str) -> None:
    """On black pictures: what a cell shows grows with its grey."""
    made = payloads.run(frames=1, steps=4, arms=["R4S32"])
    black = payloads.strip(np.zeros((1, 8, 8, 3), np.uint8))
    made.run["pictures"]["strips"] = {arm: [black] * 3 for arm in ("clean", "R4S32")}
    ramp = np.arange(0, 256, 16, dtype=np.uint8).reshape(1, 4, 4)
    for each in made.run["maps"]:
        each["strips"] = {arm: [payloads.strip(ramp)] * 3 for arm in ("clean", "R4S32")}
    viewer = Viewer(show(payloads.payload(made), f"#map={kind}"))
    assert eventually(lambda: viewer.pictures()[1].any())
    shown = viewer.pictures()[1].sum(axis=2)
    side = shown.shape[0] // 4
    light = shown.reshape(4, side, 4, side).sum(axis=(1, 3)).ravel()
    assert light[0] == 0
    assert (np.diff(light) > 0).all()
