"""Arms are read from the coordinates of the store, and every measure tells and draws the same ones first."""

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.common import runs
from tests.builders import synthetic

WINDOWS = ["R4S32@steps=0:2", "R4S32@pause=0:2", "R4S32@strength=0.1"]


def described(*names, steps=20):
    return runs.arms(synthetic.gaussian_run({name: {} for name in names}, steps=steps, samples=1), floor=True)


@pytest.mark.parametrize(
    ("name", "window", "pause"),
    [
        ("R4S32", range(20), range(0)),
        ("R4S32@steps=3:5", range(3, 5), range(0)),
        ("sink-k1@layers=2;steps=0.5:1.0", range(10, 20), range(0)),
        ("R4S32@steps=2:9;pause=0.2:0.3", range(2, 9), range(4, 6)),
    ],
)
def test_the_window_and_the_pause_of_an_arm(name, window, pause):
    arm = described(name)[-1]
    assert (arm.name, arm.window, arm.pause) == (name, window, pause)
    assert arm.paused == (len(pause) > 0)


def test_what_an_arm_is_a_part_or_a_dose_of():
    floor, whole, part, dose, sink = described(
        "K64N8@layers=1,2", "K64N8@layers=1,2;steps=0:5", "K64N8@layers=1,2;strength=0.3", "sink-k5"
    )
    assert floor.is_floor
    assert {arm.mask for arm in (whole, part, dose)} == {"K64N8@layers=1,2"}
    assert [arm.is_cell for arm in (whole, part, dose, sink)] == [True, False, False, True]
    assert [arm.whole for arm in (whole, part, dose, sink)] == [True, False, True, True]
    assert (whole.family, whole.parameters["hubs"], whole.layers, dose.strength) == ("hub-spoke", 64, "1,2", 0.3)


def test_only_the_all_true_mask_of_all_layers_is_the_floor():
    run = synthetic.gaussian_run({"full@layers=3": {"shift": 0.1}, "R4S32": {"shift": 0.1}})
    assert runs.names(run) == ["full@layers=3", "R4S32"]
    assert runs.names(run, floor=True) == ["full", "full@layers=3", "R4S32"]


def test_arms_that_act_over_the_whole_run_are_told_and_drawn_first_a_pause_is_not_whole():
    masks = {name: {"shift": 0.1} for name in [*WINDOWS, "R4S32"]}
    masks["R4S32@steps=0:2"]["window"] = range(2)
    dataset = analysis.growth(synthetic.gaussian_run(masks))
    assert runs.to_tell(dataset) == (["R4S32@strength=0.1", "R4S32"], "; 2 more arms are in the table")
    assert runs.to_draw(dataset, 3) == ["R4S32@strength=0.1", "R4S32", "R4S32@steps=0:2"]


def test_intervals_have_low_estimate_and_high_along_bound():
    values = xr.DataArray(np.random.default_rng(0).lognormal(size=(2, 30)), dims=("arm", "sample"))
    low, middle, high = runs.bounds(runs.summary(values, "median"))
    np.testing.assert_array_equal(middle, np.median(values, axis=1))
    assert ((low < middle) & (middle < high)).all()
    low, middle, high = runs.bounds(runs.geometric(values.where(values > 0.5)))
    kept = np.log(values.where(values > 0.5))
    np.testing.assert_allclose(middle, np.exp(np.nanmean(kept, axis=1)))
    assert ((low < middle) & (middle < high)).all()
