"""Runs that differ in one setting: names, pairing and ratios against numbers that are known by construction."""

import numpy as np
import pytest

from analysis import amplification, compare, steps
from analysis.common import runs
from tests.builders import synthetic
from tests.builders.recorded import STATE, recorded

LOG_A = np.array([0.1, 0.4, -0.2, 0.3, 0.0])


def two(**second):
    first = recorded({"R4S32": LOG_A, "K64": LOG_A + 1}, guidance=1.0)
    return first, recorded({"R4S32": LOG_A + 0.5, "K64": LOG_A + 1}, **({"guidance": 1.5} | second))


def test_runs_are_named_by_what_differs_and_titled_by_what_does_not():
    found = compare(two())
    assert found["run"].values.tolist() == ["guidance 1", "guidance 1.5"]
    assert found.attrs["title"] == "by-hand, ddpm, 50 steps"
    assert compare(two(guidance=1.0, mask_seed=3))["run"].values.tolist()[1] == "mask seed 3"


def test_errors_are_in_units_of_the_clean_spread_and_ratios_are_paired():
    first, second = two()
    found = compare([first, second])
    final = first["trajectory"]["latent"].values[:, -1].reshape(5, -1)
    spread = np.sqrt(final.var(axis=0, ddof=1).sum())
    np.testing.assert_allclose(found["final_error"].sel(run="guidance 1", arm="R4S32"), 2 * np.exp(LOG_A) / spread)
    at = found.sel(run="guidance 1.5")
    np.testing.assert_allclose(at["amplification_ratio_interval"].sel(bound="estimate"), np.exp([0.5, 0.0]))
    np.testing.assert_allclose(
        at["final_error_ratio_interval"].sel(bound="low"), np.exp([0.5, 0.0])
    )  # the same for every sample
    assert "its amplification 1.65 [1.65, 1.65] times as large" in compare.sentence(found)


def test_samples_are_paired_by_seed_and_others_left_out():
    first, _ = two()
    second = recorded({"R4S32": (LOG_A + 0.5)[[3, 1, 2]]}, guidance=1.5, seeds=[3, 1, 2])
    found = compare([first, second])
    assert (found.sizes["sample"], found["arm"].values.tolist()) == (3, ["R4S32"])
    np.testing.assert_allclose(
        found["amplification_ratio_interval"].sel(run="guidance 1.5", bound="estimate"), np.exp(0.5)
    )


def test_without_a_null_the_errors_alone_are_compared():
    first = recorded({"R4S32": LOG_A}, kept_null=False)
    second = recorded({"R4S32": LOG_A + 0.5}, kept_null=False, sampler="ddim")
    found = compare([first, second])
    assert np.isnan(found["amplification"]).all()
    np.testing.assert_allclose(found["final_error_ratio_interval"].sel(run="ddim", bound="estimate"), np.exp(0.5))
    assert len(compare.figure(found).axes) == 1
    assert "against ddpm, the final error is 1.65 [1.65, 1.65] times as large with ddim." in compare.sentence(found)


def test_a_stochastic_and_an_ode_sampler_are_held_against_the_same_null():
    mask = {"R4S32": {"shift": 0.1}}
    first, second = (synthetic.gaussian_run(mask, sampler=sampler) for sampler in ("ddpm", "ddim"))
    found = compare([first, second])
    assert found.attrs["null"] == "gaussian"
    for name, run in (("ddpm", first), ("ddim", second)):
        want = np.exp(amplification(run, "gaussian")["log_amplification"])
        np.testing.assert_allclose(found["amplification"].sel(run=name), want)
    assert "A against the gaussian null" in compare.sentence(found)


def test_guidance_is_said_to_break_the_null_and_the_table_has_every_run():
    found = compare(two())
    assert "breaks the argument" in compare.sentence(found)
    table = compare.table(found)
    assert table["run"].tolist() == ["guidance 1", "guidance 1.5"] * 2
    np.testing.assert_allclose(
        table["A"], np.exp([LOG_A.mean(), LOG_A.mean() + 0.5, LOG_A.mean() + 1, LOG_A.mean() + 1])
    )
    assert len(compare.figure(found).axes) == 3


@pytest.mark.parametrize(
    ("several", "message"),
    [
        (lambda: [recorded({"K64": LOG_A})], "two or more runs"),
        (lambda: [recorded({"K64": LOG_A})] * 2, "nothing to compare"),
        (lambda: [recorded({"K64": LOG_A}), recorded({"K32": LOG_A}, guidance=2.0)], "share no arm"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(several, message):
    with pytest.raises(runs.RunError, match=message):
        compare(several())


def test_the_clean_image_is_where_the_last_ddpm_step_lands():
    run = recorded({"K64": LOG_A})
    latent = run["trajectory"]["latent"]
    only_x0 = run.copy()
    only_x0["trajectory"] = run["trajectory"].to_dataset().drop_vars("latent").assign(x0=latent)
    found = [runs.clean_final(each).transpose("sample", *STATE).values for each in (run, only_x0)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_that_one_run_has_more_change_nothing(sampler):
    """Neither the spread nor the Gaussian null's spectrum may come from other samples in one run than in the next."""
    masks = {"R4S32": {"shift": 0.1}}
    more = synthetic.gaussian_run(masks, sampler=sampler, steps=12, samples=12)
    fewer = synthetic.gaussian_run(masks, sampler=sampler, steps=24, samples=12).isel(sample=slice(0, 5))
    mixed, equal = compare([more, fewer]), compare([more.isel(sample=slice(0, 5)), fewer])
    for name in ("final_error", "amplification", "final_error_ratio_interval"):
        np.testing.assert_allclose(mixed[name], equal[name], rtol=1e-12, err_msg=name)
    slopes = [steps([each, fewer])["amplification_slope"] for each in (more, more.isel(sample=slice(0, 5)))]
    np.testing.assert_allclose(*slopes, rtol=1e-12)
