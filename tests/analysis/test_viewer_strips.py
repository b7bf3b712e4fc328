"""Strips hold the recorded pictures bit for bit, from left to right, where nothing made them smaller."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from analysis.viewer import frames
from analysis.viewer.payload import payload
from analysis.viewer.strips import Recorded, Strips
from interventions.errors import InputError
from tests.builders.viewed import FRAME, viewed, without


def decoded(source: str) -> np.ndarray:
    kind, _, data = source.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_strip_is_the_recorded_frames_side_by_side_bit_for_bit():
    run = viewed()
    shown = payload(run)["runs"][0]
    pictures = shown["pictures"]
    assert (pictures["width"], pictures["height"]) == FRAME[::-1]
    assert (pictures["steps"], pictures["note"], pictures["what"]) == ([3, 7, 11], "lossless", "x0 prediction")
    assert list(pictures["strips"]) == ["clean", "R4S32"]  # the floor is no arm to look at
    for arm, strips in pictures["strips"].items():
        for sample, source in zip(shown["samples"], strips, strict=True):
            recorded = run["images"]["frame"].sel(arm=arm).isel(sample=sample["id"]).values
            for place, frame in enumerate(recorded):
                part = decoded(source)[:, place * FRAME[1] : (place + 1) * FRAME[1]]
                np.testing.assert_array_equal(part, frame)


def test_without_frames_the_result_is_the_one_frame_and_stands_at_the_last_step():
    run = without(viewed(), "images/frame")
    pictures = payload(run)["runs"][0]["pictures"]
    assert (pictures["what"], pictures["steps"]) == ("result", [11])
    np.testing.assert_array_equal(
        decoded(pictures["strips"]["clean"][2]), run["images"]["image"].sel(arm="clean").values[2]
    )


def test_a_strip_is_never_wider_than_a_webp_picture_may_be():
    run = viewed(steps=60, samples=2, frames=range(60))
    wide = run["images"]["frame"].isel(frame_x=np.zeros(600, int), frame_y=[0])
    run["images"] = run["images"].to_dataset().drop_vars("frame").assign(frame=wide)
    strips = Strips(Recorded(run))
    assert len(strips.steps) == frames.WIDEST // 600 == 27
    assert strips.steps[-1] == 59
    assert Image.open(io.BytesIO(strips.webp("pictures", "clean", [1])[0])).size == (27 * 600, 1)


def test_a_smaller_picture_is_the_mean_over_its_areas():
    even = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3) * 2
    means = even.reshape(1, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(frames.shrunk(even, 3), means, atol=0.51)
    assert frames.shrunk(even, 6) is even


@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.parametrize("most", [1, 3, 50])
def test_frames_that_are_kept_are_spread_and_end_with_the_last(count, most):
    kept = frames.spread(count, most)
    assert len(set(kept)) == len(kept) == min(count, most)
    assert kept[-1] == count - 1
    assert max(np.diff(kept), default=0) - min(np.diff(kept), default=0) <= 1


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (("wrods", "clean", 0), "there are: pictures, mass, sinks"),
        (("pictures", "R4S33", 0), "there are: clean, full, R4S32"),
        (("mass", "clean", 6), "there are: 0 to 5"),
        (("mass", "clean", -1), "there are: 0 to 5"),
    ],
)
def test_what_a_run_does_not_have_is_refused_with_what_it_has(asked, there):
    kind, arm, sample = asked
    with pytest.raises(InputError, match=there):
        Strips(Recorded(viewed())).webp(kind, arm, [sample])
