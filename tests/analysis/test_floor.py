"""A floor on the first few samples: it is summarised over those, compared with all, and nothing else knows of it."""

import re

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.common import divergence, floor, runs
from tests.builders.replayed import answered
from tests.builders.synthetic import gaussian_run

MISSING, COMPLETE, FAILED, UNASKED = 0, 1, 2, 3


def few(run, samples=3):
    """The run as it is read where the floor was run on so many samples: NaN and its own flag in the others."""
    full = run["metrics"]["arm"].values.tolist().index("full")
    groups = {node.path: node.to_dataset().copy(deep=True) for node in run.subtree}
    for array in (array for data in groups.values() for array in data.data_vars.values()):
        if {"arm", "sample"} <= set(array.dims):
            array[{"arm": full, "sample": slice(samples, None)}] = UNASKED if array.name == "status" else np.nan
    tree = xr.DataTree.from_dict(groups, name=run.name)
    tree.attrs = run.attrs
    return tree


def same_but_for_the_floor(one, other):
    for name in one.data_vars:
        if name != "floor":
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


@pytest.mark.parametrize("measure", ["growth", "decompose", "null", "bands"])
def test_a_measure_says_the_same_of_every_other_arm(measure):
    whole = gaussian_run()
    same_but_for_the_floor(getattr(analysis, measure)(few(whole)), getattr(analysis, measure)(whole))


def test_the_floor_of_growth_is_the_median_of_the_samples_that_have_it():
    whole = gaussian_run()
    found = analysis.growth(few(whole))["floor"].sel(coordinate="raw").isel(step=-1)
    error = whole["metrics"]["delta_l2"].sel(arm="full").isel(step=-1).values[:3]
    variance = whole["trajectory"]["latent"].isel(step=-1).values.var(axis=0, ddof=1).mean()
    np.testing.assert_allclose(found, np.median(error) / np.sqrt(128 * variance), rtol=1e-10)
    assert "numerical floor is" in analysis.growth.sentence(analysis.growth(few(whole)))


def test_a_sample_is_compared_with_its_own_floor_or_with_the_largest():
    """Floors 1, 3, 2 and none: 1, 3, 2, 3."""
    run = few(answered({"R4S32": {"S": 1.0}}, samples=4, floor=1.0))
    errors = xr.zeros_like(run["metrics"]["delta_l2"].isel(step=-1, drop=True))
    errors.loc[{"arm": "full"}] = [1, 3, 2, np.nan]
    assert floor.of_samples(run, errors).values.tolist() == [1, 3, 2, 3]
    assert floor.measured(run, errors).fillna(-1).values.tolist() == [1, 3, 2, -1]


def test_samples_below_a_hundred_floors_are_left_out_wherever_the_floor_was_run():
    """Errors .01 and 1 against a floor of .001, in samples with it and without."""
    error = np.tile([0.01, 1.0], 12)
    run = few(answered({"R4S32": {"S": 1.0, "error": error}}, samples=24, floor=1e-3))
    found = analysis.verdict(run)
    assert (found["samples"].item(), found["excluded"].item()) == (12, 12)


def test_without_a_sample_that_has_the_floor_nothing_is_compared_with_it():
    run = few(answered({"R4S32": {"S": 1.0}}, samples=8, floor=1.0))  # each error is 1, below 100 floors
    assert analysis.verdict(run)["samples"].item() == 0
    run["status"].values[:, :3] = MISSING
    assert floor.of_samples(runs.complete(run), run["metrics"]["delta_l2"]) == 0.0
    assert analysis.verdict(run)["samples"].item() == 5
    run = few(gaussian_run(samples=6))
    run["status"].values[:, :3] = MISSING
    assert analysis.growth(run)["floor"].isnull().all()


def test_samples_without_the_floor_are_neither_missing_nor_diverged():
    run = few(gaussian_run())
    told = divergence.left_out(run)
    assert (told["missing"], told["diverged"], told["left_out"]) == (0, 0, "")
    assert runs.complete(run)["metrics"].sizes["sample"] == 6
    assert divergence.asked(run).sum("sample").values.tolist() == [6, 3, 6]


def test_a_floor_that_diverged_wherever_it_was_run_is_left_out_itself():
    run = few(gaussian_run())
    full = run["status"]["arm"].values.tolist().index("full")
    run["status"].values[full, :3] = FAILED
    kept = runs.complete(run)
    assert kept["metrics"]["arm"].values.tolist() == ["clean", "R4S32"]
    assert kept["metrics"].sizes["sample"] == 6
    run["status"].values[full, 0] = COMPLETE  # one of three is left, so the two samples go and the arm stays
    assert runs.complete(run)["metrics"]["sample"].values.tolist() == [0, 3, 4, 5]


def test_runs_without_flags_have_every_arm_everywhere():
    run = gaussian_run()
    without = xr.DataTree.from_dict({path: data for path, data in run.to_dict().items() if path != "/"})
    without.attrs = run.attrs
    assert divergence.asked(without).values.all()
    own = run["metrics"]["delta_l2"].sel(arm="full").isel(step=-1).values
    errors = run["metrics"]["delta_l2"].isel(step=-1)
    np.testing.assert_array_equal(floor.of_samples(without, errors).values, own)


def test_a_page_says_where_the_floor_was_not_run():
    """Its row has three pictures, of the six of every other arm."""
    run = few(gaussian_run())
    dims = ("arm", "sample", "image_y", "image_x", "rgb")
    coords = {name: c for name, c in run["metrics"].ds.coords.items() if "step" not in c.dims}
    run["images"] = xr.DataTree(xr.Dataset({"image": (dims, np.zeros((3, 6, 1, 1, 3), np.uint8))}, coords=coords))
    page = analysis.report(run, sections=[])
    rows = [row for row in re.findall("<tr>.*?</tr>", page) if "<img" in row]
    assert [(row.count("<img"), row.count("not run")) for row in rows] == [(6, 0), (3, 3), (6, 0)]
