"""Single injections under fresh noise: off-diagonal sums by hand, a linear system, and one that only scatters."""

import json

import numpy as np
import pytest
import xarray as xr

from analysis import renoise
from analysis.answer.measured import off_diagonal
from analysis.common import runs
from tests.builders import stored
from tests.builders.replayed import SHAPE, STATE, bimodal, replayed_run
from tests.ground_truth import constructed, gaussian

LAM = np.geomspace(10, 0.1, 64).reshape(SHAPE)
CLEAN = gaussian.gaussian_denoiser(LAM)
BIMODAL = next(system for system in constructed.EXACT_SYSTEMS if system.name == "bimodal, shift .1")


def fork_run(clean, masked, k, mask="R4S32", **options):
    return replayed_run(clean, {f"{mask}@steps={k}:{k + 1}": masked}, fork=k + 1, **options)


def by_hand(delta, d, step=2, mask="R4S32", steps=10):
    """A fork run with these final differences [start, path, 16] and d [start, 16]."""
    starts, paths, _ = delta.shape
    arms = ["clean", f"{mask}@steps={step}:{step + 1}"]
    number = np.arange(starts * paths)
    coords = {"arm": arms, **stored.arms(arms, steps), "sample": number, "seed": ("sample", number // paths)}
    coords |= {"start": ("sample", number // paths), "path": ("sample", number % paths)}

    def field(values):
        array = np.zeros((2, starts * paths, 1, 4, 4))
        array[1] = values.reshape(starts * paths, 1, 4, 4)
        return (("arm", "sample", *STATE), array)

    norms = (("arm", "sample", "step"), np.ones((2, starts * paths, steps)))
    tree = xr.DataTree.from_dict({
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones((2, starts * paths), np.int8))}, coords=coords),
        "metrics": xr.Dataset({"delta_l2": norms}, coords=coords | {"step": np.arange(steps)}),
        "trajectory": xr.Dataset({"final_delta": field(delta)}, coords=coords),
        "decomposition": xr.Dataset({"null_sum": field(np.repeat(d[:, None], paths, axis=1))}, coords=coords),
    })  # fmt: skip
    config = {"model": "by-hand", "sampler": "ddpm", "steps": steps, "guidance": 1.0, "arms": arms}
    tree.attrs = {"schema": "denoise-trace", "config": json.dumps(config), **stored.facts("ddpm")}
    return tree


def test_off_diagonal_sums_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    pairs = [one[i] @ other[j] for i in range(5) for j in range(5) if i != j]
    assert off_diagonal(one, other) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_the_energies_of_a_known_mean_and_scatter_are_found():
    """delta = 1.2 d + noise of energy 16 x .25: systematic 1.44, total 1.44 + 4 / |d|^2, departure .04, over |d|^2."""
    rng = np.random.default_rng(1)
    d = rng.normal(size=(24, 16))
    delta = 1.2 * d[:, None] + 0.5 * rng.normal(size=(24, 64, 16))
    found = renoise(by_hand(delta, d)).sel(mask="R4S32", step=2)
    scatter = 4 / (d**2).sum(1).mean()
    for name, expected in (
        ("slope", 1.2), ("systematic", 1.44), ("total", 1.44 + scatter), ("departure", 0.04),
        ("share", 1.44 / (1.44 + scatter)),
    ):  # fmt: skip
        low, value, high = found[f"{name}_interval"].values
        assert value == pytest.approx(expected, rel=0.02, abs=0.005), name
        assert low < expected < high, name
    np.testing.assert_allclose(found["slope"].values, (delta.mean(1) * d).sum(1) / (d**2).sum(1), rtol=1e-9)


def test_the_systematic_energy_has_no_bias_from_few_paths():
    """Pure scatter, three paths: the mean over starts is 0, where |mean of delta|^2 would be a third of the energy."""
    rng = np.random.default_rng(2)
    delta, d = rng.normal(size=(400, 3, 16)), np.ones((400, 16))
    found = renoise(by_hand(delta, d)).isel(mask=0, step=0)
    low, value, high = found["systematic_interval"].values
    assert low < 0 < high
    assert abs(value) < 0.02


@pytest.mark.parametrize("k", [3, 10])
def test_an_injection_into_a_gaussian_system_ends_at_its_null_on_every_path(k):
    """The clean map is linear: delta = d exactly, without scatter."""
    run = fork_run(CLEAN, lambda x, a, s: CLEAN(x, a, s) + 0.05, k, steps=12, starts=5, paths=3)
    found = renoise(run).isel(mask=0)
    for name, expected in (("slope", 1), ("systematic", 1), ("total", 1), ("departure", 0), ("share", 1)):
        np.testing.assert_allclose(found[f"{name}_interval"], expected, rtol=1e-7, atol=1e-9, err_msg=name)
    assert found["step"].values.tolist() == [k]


def test_a_posterior_mean_of_bimodal_data_keeps_the_mean_while_single_paths_scatter():
    """The martingale: slope 1 and departure 0 within the interval; single paths carry several times the energy."""
    several = [fork_run(BIMODAL.clean, BIMODAL.masked, k, data=bimodal, starts=12, paths=24, seed=5) for k in (28, 36)]
    found = renoise(several).isel(mask=0)
    assert found["step"].values.tolist() == [28, 36]
    for step in (28, 36):
        at = found.sel(step=step)
        low, _, high = at["slope_interval"].values
        assert low - 0.1 < 1 < high + 0.1
        assert float(at["total_interval"].sel(bound="estimate")) > 2
    low, share, high = found["all_share_interval"].values
    assert low < share < high < 0.7


def test_several_masks_and_steps_stand_side_by_side():
    rng = np.random.default_rng(3)
    d = rng.normal(size=(6, 16))
    several = [
        by_hand(d[:, None] + rng.normal(size=(6, 8, 16)), d, step, mask) for mask in ("R4S32", "K64") for step in (2, 7)
    ]
    found = renoise(several)
    assert (found["mask"].values.tolist(), found["step"].values.tolist()) == (["R4S32", "K64"], [2, 7])
    table = renoise.table(found)
    assert table["step"].tolist() == ["2", "7", "all"] * 2
    text = renoise.sentence(found)
    assert "injections at 2 steps, 6 starts, 8 fresh noises each" in text
    assert "K64: the mean over fresh noise follows d with a slope of" in text
    assert len(renoise.figure(found).axes) == 2


def test_runs_without_forks_or_with_one_path_are_refused():
    d = np.ones((4, 16))
    with pytest.raises(runs.RunError, match="trace counterfactual renoise"):
        renoise(by_hand(d[:, None], d))
    with pytest.raises(runs.RunError, match="trace counterfactual renoise"):
        renoise(replayed_run(CLEAN, {"R4S32": CLEAN}, steps=4, starts=3, paths=2))
