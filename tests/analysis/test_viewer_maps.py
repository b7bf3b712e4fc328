"""Maps of attention: every grey value is the recorded number, computed here token by token."""

import base64
import io
from collections import Counter

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from analysis.viewer import maps
from analysis.viewer.payload import payload
from tests.builders.attended import attended
from tests.builders.viewed import GRID, HEADS, LAYERS, viewed, without
from tests.builders.worded import TEXTS, worded


def shown(run: xr.DataTree, name: str) -> dict:
    return next(one for one in payload(run)["runs"][0]["maps"] if one["name"] == name)


def pixels(one: dict, arm: str, sample: int) -> np.ndarray:
    """Grey values [step, y, x] of a strip."""
    image = Image.open(io.BytesIO(base64.b64decode(one["strips"][arm][sample].partition(",")[2])))
    red, green, blue = np.moveaxis(np.asarray(image), -1, 0)
    assert (red == green).all()
    assert (red == blue).all()
    return np.stack(np.split(red.astype(int), len(one["steps"]), axis=1))


def test_a_grey_value_of_the_mass_is_the_mean_over_layers_on_a_logarithmic_scale():
    run = viewed()
    one = shown(run, "mass")
    assert ((one["height"], one["width"]), one["kind"], one["log"]) == (GRID, "heat", True)
    assert one["steps"] == [3, 7, 11]  # those of the pictures
    for arm, sample in (("clean", 0), ("R4S32", 5)):
        grey = pixels(one, arm, sample)
        for place, step in enumerate(one["steps"]):
            for y, x in np.ndindex(GRID):
                token = 1 + y * GRID[1] + x  # behind the prefix
                recorded = run["attention"]["mass_layer"].sel(arm=arm).values[sample, step, :, token]
                mass = float(np.float64(recorded).sum() / LAYERS)
                share = np.log(mass / one["low"]) / np.log(one["high"] / one["low"])
                assert grey[place, y, x] == round(255 * min(max(share, 0), 1))


def test_a_ring_is_the_share_of_heads_and_layers_whose_top_key_it_is():
    run = viewed()
    one = shown(run, "sinks")
    assert (one["kind"], one["low"], one["log"]) == ("rings", 0, False)
    grey, largest = pixels(one, "R4S32", 3), one["high"] * LAYERS * HEADS
    assert largest == pytest.approx(round(largest))  # the most heads that a token has in the first arms and samples
    for place, step in enumerate(one["steps"]):
        top = Counter(run["attention"]["sink_token"].sel(arm="R4S32").values[3, step, ..., 0].ravel().tolist())
        for y, x in np.ndindex(GRID):
            assert abs(grey[place, y, x] - min(255, 255 * top[1 + y * GRID[1] + x] / largest)) <= 0.5 + 1e-6


def test_before_an_arm_departs_its_maps_are_the_clean_ones():
    run = viewed(masks={"R4S32": {}, "R4S32@steps=6:12": {"window": range(6, 12)}})
    mass = run["attention"]["mass_layer"]
    mass[{"arm": -1, "step": slice(0, 6)}] = np.nan  # the lane was not run
    one = shown(run, "mass")
    clean, late = (pixels(one, arm, 0) for arm in ("clean", "R4S32@steps=6:12"))
    np.testing.assert_array_equal(late[0], clean[0])
    assert (late[1:] != clean[1:]).any()


def test_the_scale_does_not_depend_on_the_samples_that_are_shown():
    run = viewed()
    few, many = (payload(run, samples=count)["runs"][0]["maps"][0] for count in ([4, 5], 6))
    assert (few["low"], few["high"]) == (many["low"], many["high"])
    assert few["strips"]["clean"] == many["strips"]["clean"][4:]


def test_of_a_video_the_first_frame_is_shown_and_said():
    rng = np.random.default_rng(0)
    run = attended(rng.random((2, 3, 1, 2 * 2 * 3 + 1)), (2, 2, 3))
    run["images"] = xr.DataTree()
    one = maps.found(run)[0]
    assert one.size == (2, 3)
    assert "first frame of the video" in one.title
    recorded = run["attention"]["mass_layer"].values[0, 1, 2, 0, :6].reshape(2, 3)
    np.testing.assert_allclose(one.read("clean", [1], [2])[0, 0], recorded)


@pytest.mark.parametrize("gone", [["attention"], ["attention/mass_layer", "attention/sink_token"]])
def test_a_run_without_attention_has_no_maps(gone):
    assert payload(without(viewed(), *gone))["runs"][0]["maps"] == []


def test_attention_without_a_picture_has_no_maps():
    run = viewed()
    run["attention"] = run["attention"].to_dataset().assign_coords(token_y=("token", np.full(15, -1)))
    assert payload(run)["runs"][0]["maps"] == []


def test_maps_of_words_lie_below_each_other_each_over_its_own_mean():
    run = worded()
    one = shown(run, "words")
    assert (one["kind"], one["log"], one["steps"]) == ("heat", True, [3, 7, 11])
    assert ((one["height"], one["width"]), one["low"], one["high"]) == (GRID, 0.25, 4.0)
    assert one["words"] == [[text for text in row if text] for row in TEXTS.tolist()]
    for arm, sample in (("clean", 0), ("R4S32", 2)):
        grey = pixels(one, arm, sample)
        words = one["words"][sample]
        assert grey.shape == (3, len(words) * GRID[0], GRID[1])
        for place, word in np.ndindex(3, len(words)):
            recorded = run["attention"]["word_map"].sel(arm=arm).values[sample, place, word].astype(float)
            share = np.log(recorded / recorded.mean() / 0.25) / np.log(16)
            part = grey[place, word * GRID[0] : (word + 1) * GRID[0]]
            np.testing.assert_array_equal(part, np.rint(255 * np.clip(share, 0, 1)))


def test_words_are_shown_at_their_own_steps_where_there_are_no_pictures_along_the_way():
    one = shown(without(worded(), "images"), "words")
    assert one["steps"] == [3, 7, 11]
    assert "words" not in [each["name"] for each in payload(viewed())["runs"][0]["maps"]]
