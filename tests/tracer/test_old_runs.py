"""A real run of schema version 1 (tests/data/run-v1): it opens with what version 2 added, and goes on where it stopped.

It was made with the embedded DiT: 2 samples, 4 steps of DDPM, one sample a unit.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import tracer
from tracer import store
from tracer.store import upgrade

OLD = Path(__file__).parents[1] / "data" / "run-v1"
ARMS = ["clean", "R2S8", "R2S8@steps=0:2", "R2S8@strength=0.1", "sink-k1", "random-k1", "full"]
EXPECTED = {
    "arm_role": ["clean", "cell", "cell", "cell", "cell", "control", "floor"],
    "arm_family": ["clean", "small-world", "small-world", "small-world", "sink-keys", "random-keys", "full"],
    "arm_mask": ["clean", "R2S8", "R2S8", "R2S8", "sink-k1", "random-k1", "full"],
    "arm_whole": [True, True, False, True, True, True, True],
    "arm_start": [0] * 7,
    "arm_stop": [4, 4, 2, 4, 4, 4, 4],
    "arm_pause_start": [0] * 7,
    "arm_pause_stop": [0] * 7,
    "arm_strength": [1.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0],
    "arm_layers": [""] * 7,
}


def copy(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_it_opens_with_the_coordinates_of_its_arms_in_every_group_and_is_left_as_it_is():
    before = contents(OLD)
    run = tracer.open_run(OLD)
    assert run.attrs["schema_version"] == 1
    for node in run.subtree:
        data = node.to_dataset(inherit=False)
        if "arm" not in data.dims:
            continue
        assert node["arm"].values.tolist() == ARMS  # an index, which groups inherit
        for name, values in EXPECTED.items():
            assert data[name].dims == ("arm",)
            assert data[name].values.tolist() == values, name
        assert [json.loads(text) for text in data["arm_parameters"].values[1:4]] == 3 * [{"radius": 2, "shortcuts": 8}]
        match = data["arm_match"].values.tolist()
        assert match[4] == match[5] != ""
        assert match[:4] + match[6:] == [""] * 5
    assert contents(OLD) == before


def test_its_values_are_those_that_plain_xarray_reads():
    ours, plain = tracer.open_run(OLD), xr.open_datatree(OLD / "trace.zarr")
    arrays = [
        f"{node.path}/{name}".strip("/") for node in plain.subtree for name in node.to_dataset(inherit=False).data_vars
    ]
    assert len(arrays) == 31
    for path in arrays:
        np.testing.assert_array_equal(ours[path].values, plain[path].values)


def test_it_says_what_its_sampler_was():
    run = tracer.open_run(OLD)
    assert (run.attrs["sampler"], run.attrs["sampler_stochastic"]) == ("ddpm", True)
    metrics = run["metrics"].to_dataset()
    assert metrics["state_factor"].dims == metrics["prediction_factor"].dims == ("step",)
    # The posterior mean as Ho et al. 2020 write it, eq. 7, in the cumulative products of the respaced chain.
    kept, kept_after = metrics["alpha"].values ** 2, metrics["alpha_after"].values ** 2
    alpha = kept / kept_after
    np.testing.assert_allclose(metrics["state_factor"], np.sqrt(alpha) * (1 - kept_after) / (1 - kept), 1e-9, 1e-12)
    np.testing.assert_allclose(metrics["prediction_factor"], np.sqrt(kept_after) * (1 - alpha) / (1 - kept), rtol=1e-9)
    assert (metrics["state_factor"].values[-1], metrics["prediction_factor"].values[-1]) == pytest.approx((0, 1))


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_the_factors_of_a_deterministic_step_are_those_of_its_equation(sampler):
    rng = np.random.default_rng(0)
    levels = np.linspace(0.9, 0.0, 6)
    alpha = 1 - levels if sampler == "flow" else np.sqrt(1 - levels**2)
    state, prediction = rng.standard_normal((2, 5))
    a, s, b, u = alpha[:-1], levels[:-1], alpha[1:], levels[1:]
    noise = (state - a * prediction) / s
    step = state + (u - s) * (noise - prediction) if sampler == "flow" else b * prediction + u * noise
    p, q = upgrade.step_factors(sampler, a, s, b, u)
    np.testing.assert_allclose(p * state + q * prediction, step, rtol=1e-12)


def test_it_verifies_as_whole(tmp_path):
    report = store.finalize(copy(tmp_path))
    assert (report.complete, report.samples, report.whole) == (2, 2, True)


def test_it_is_resumed_with_the_numbers_that_it_had(tmp_path):
    path = copy(tmp_path)
    before = {file: (path / file).read_bytes() for file in contents(path) if file.endswith("zarr.json")}
    (path / "trace.zarr/status/c.0.1").unlink()
    assert tracer.open_run(path)["status"].values[0].tolist() == [1, 0]
    record = ("norms", "latents", "decomposition", "null", "images", "mass", "sinks", "finals")
    options = {"samples": 2, "steps": 4, "batch_size": 1, "record": record, "out": path, "resume": True}
    with pytest.raises(store.RunError, match="steps: 4 -> 5"):
        tracer.trace("dit", ARMS[1:], **{**options, "steps": 5})
    tracer.trace("dit", ARMS[1:], **options)
    again, was = tracer.open_run(path), tracer.open_run(OLD)
    assert (again["status"] == 1).all()
    assert {file: (path / file).read_bytes() for file in before} == before
    for name in ("metrics/delta_l2", "metrics/gain", "trajectory/final_delta", "decomposition/null_sum"):
        new, old = again[name].isel(sample=1).values, was[name].isel(sample=1).values
        exact = np.asarray(was["arm"].values != "full")  # the floor is rounding, another processor rounds otherwise
        np.testing.assert_allclose(new[exact], old[exact], rtol=1e-3, atol=1e-3, err_msg=name)
