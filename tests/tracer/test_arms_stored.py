"""What a run says of its arms: given by the loop, or computed from the specs when the run is created."""

import numpy as np
import pytest
import xarray as xr

from tests.builders.runs_by_hand import ARM_COORDINATES, ARMS, CONFIG, create
from tracer import store
from tracer.store import records

SIZES = {"arm": 5, "sample": 2, "step": 10, "channel": 1, "y": 2, "x": 2}
SPECS = ["clean", "full@layers=1,2,3,5", "R0S8@steps=0.0:0.25;strength=0.5", "bottom-k2@pause=3:5", "D0.3A1"]
VARIABLES = records.variables(["norms"], SIZES)


def made(path, arms=SPECS, **coords):
    given = {"arm": (("arm",), arms, {}), **{name: (("arm",), values, {}) for name, values in coords.items()}}
    store.create(path, VARIABLES, {**SIZES, "arm": len(arms)}, given, {"config": {}}, 1)
    return path


def test_a_run_of_spec_strings_gets_the_coordinates_of_its_arms(tmp_path):
    plain = xr.open_datatree(made(tmp_path / "run") / "trace.zarr")
    for group in ("/", "metrics"):
        coords = plain[group].to_dataset(inherit=False).coords
        assert coords["arm_role"].values.tolist() == ["clean", "floor", "cell", "control", "cell"]
        assert coords["arm_family"].values.tolist() == ["clean", "full", "random", "bottom-keys", "preferential"]
        assert coords["arm_whole"].values.tolist() == [True, True, False, False, True]
        assert coords["arm_start"].values.tolist() == [0, 0, 0, 0, 0]
        assert coords["arm_stop"].values.tolist() == [10, 10, 3, 10, 10]  # 2.5 of 10 steps, half up
        assert coords["arm_pause_start"].values.tolist() == [0, 0, 0, 3, 0]
        assert coords["arm_pause_stop"].values.tolist() == [0, 0, 0, 5, 0]
        assert coords["arm_strength"].values.tolist() == [1, 1, 0.5, 1, 1]
        assert coords["arm_layers"].values.tolist() == ["", "1-3,5", "", "", ""]
        assert coords["arm_mask"].values.tolist()[2:4] == ["R0S8", "bottom-k2"]
        assert coords["arm_parameters"].values.tolist()[4] == '{"density": 0.3, "exponent": 1.0}'
    assert coords["arm_whole"].dtype == bool
    assert coords["arm_stop"].dtype == np.int64
    assert coords["arm_strength"].dtype == np.float64
    assert plain.attrs["schema_version"] == 2


def test_coordinates_that_are_given_are_kept_whatever_the_arms_are_called(tmp_path):
    run = store.open_run(create(tmp_path / "run"))
    assert run["arm"].values.tolist() == ARMS
    for name, values in ARM_COORDINATES.items():
        for group in ("/", "metrics", "images", "attention"):
            assert run[group][name].values.tolist() == values
        assert run[name].attrs["long_name"]


def test_arms_of_which_it_is_not_known_what_they_are_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(store.RunError, match=r"arm 'mine' is no spec, so its coordinates have to be given"):
        made(tmp_path / "run", ["clean", "mine"])
    with pytest.raises(store.RunError, match=r"coords has arm_role and lacks arm_family, arm_parameters"):
        made(tmp_path / "run", ["clean", "R1S0"], arm_role=["clean", "cell"])
    assert list(tmp_path.iterdir()) == []


def test_a_run_made_before_its_sampler_was_stored_is_told_it_and_one_that_says_it_is_left_alone(tmp_path):
    levels = {"alpha": 0.8, "sigma": 0.6, "alpha_after": 1.0, "sigma_after": 0.0}
    sizes = {**SIZES, "arm": 2, "step": 3}
    coords = {"arm": (("arm",), ["clean", "R1S0"], {})}
    coords |= {name: (("step",), np.full(3, value), {}) for name, value in levels.items()}
    config = {**CONFIG, "sampler": "ddim"}
    store.create(tmp_path / "old", VARIABLES, sizes, coords, {"config": config}, 1)
    coords |= {name: (("step",), [np.nan] * 3, {}) for name in ("state_factor", "prediction_factor")}
    facts = {"config": config, "sampler": "heun", "sampler_stochastic": False}
    store.create(tmp_path / "new", VARIABLES, sizes, coords, facts, 1)
    old, new = store.open_run(tmp_path / "old"), store.open_run(tmp_path / "new")
    assert (old.attrs["sampler"], old.attrs["sampler_stochastic"]) == ("ddim", False)
    assert old["metrics"]["state_factor"].values.tolist() == [0, 0, 0]
    assert old["metrics"]["prediction_factor"].values.tolist() == [1, 1, 1]
    assert new.attrs["sampler"] == "heun"
    assert np.isnan(new["metrics"]["state_factor"]).all()
