"""Growth curves against closed forms of exact Gaussian systems: expected numbers come from `ground_truth.gaussian`
and plain numpy.
"""

import json

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.answer import null
from analysis.common import runs, spectrum
from analysis.measures.growth import _shape_null
from tests.builders import synthetic
from tests.ground_truth import gaussian

SAMPLERS = tuple(gaussian.SCHEDULES)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_impulse_is_reported_as_its_closed_form_in_raw_and_x0_coordinates(sampler):
    steps, at, shift = 9, 3, 0.3
    run = synthetic.gaussian_run(
        {f"R4S32@steps={at}:{at + 1}": {"shift": shift, "window": range(at, at + 1)}}, sampler=sampler, steps=steps
    )
    dataset = analysis.growth(run)
    schedule, lam = gaussian.SCHEDULES[sampler](steps), synthetic.spectrum()
    gains = gaussian.step_gain(schedule, lam)
    delta, expected, x0 = np.zeros_like(lam), [], []
    for i in range(steps):  # a constant x0-error of `shift` at one step, then the clean linear map
        x0.append(gaussian.x0_sensitivity(schedule.alpha[i], schedule.sigma[i], lam) * delta + shift * (i == at))
        delta = gains[i] * delta + gaussian.injection_factor(schedule)[i] * shift * (i == at)
        expected.append(delta)
    variance = run["trajectory"]["latent"].isel(step=-1).values.var(axis=0, ddof=1).mean()
    v = schedule.alpha_after**2 * variance + schedule.sigma_after**2
    raw = np.sqrt((np.array(expected) ** 2).mean((1, 2, 3)) / v)
    np.testing.assert_allclose(dataset["error"].sel(coordinate="raw")[0, 0], raw, rtol=1e-10, atol=1e-14)
    predicted = np.sqrt((np.array(x0) ** 2).mean((1, 2, 3)) / variance)
    np.testing.assert_allclose(dataset["error"].sel(coordinate="x0")[0, 0], predicted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mask_that_only_shifts_the_prediction_follows_its_additive_null_exactly(sampler):
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}}, sampler=sampler, steps=20)
    path = null.transported(run, synthetic.true_lam())
    state = spectrum.ring_energy(run["trajectory"]["delta"])
    np.testing.assert_allclose(path["state"].sel(arm="R4S32"), state.sel(arm="R4S32"), rtol=1e-10, atol=1e-20)
    prediction = run["metrics"]["x0_l2"].sel(arm="R4S32") ** 2
    np.testing.assert_allclose(path["prediction"].sel(arm="R4S32").sum("ring"), prediction, rtol=1e-10)


def test_a_contracting_mask_ends_below_its_additive_null():
    run = synthetic.gaussian_run({"R4S32": {"scale": 0.8, "shift": 0.1}}, sampler="ddim", steps=40, samples=12)
    last = analysis.growth(run).sel(coordinate="raw", arm="R4S32").isel(step=-1)
    assert last["error_interval"].sel(bound="high") < last["null_interval"].sel(bound="low")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_steady_edge_of_the_shape_null_is_the_path_of_a_constant_push(sampler):
    run = synthetic.gaussian_run(
        {"R4S32": {"shift": 0.1}}, sampler=sampler, steps=15, power=0.0, decomposition=False, null=False
    )
    shape = _shape_null(run, runs.arms(run)[-1], xr.DataArray(4.0)).sel(kind=1)
    v = gaussian.variance(
        gaussian.SCHEDULES[sampler](15).alpha_after, gaussian.SCHEDULES[sampler](15).sigma_after, np.array([4.0])
    )[:, 0]
    seen = run["metrics"]["delta_l2"].sel(arm="R4S32", sample=0).values / np.sqrt(v)
    np.testing.assert_allclose(
        shape.sel(coordinate="raw") / shape.sel(coordinate="raw")[-1], seen / seen[-1], rtol=1e-10
    )


def test_without_recorded_injections_the_null_is_called_a_shape_and_meets_the_final_error():
    dataset = analysis.growth(synthetic.gaussian_run(decomposition=False, null=False))
    last = dataset.isel(step=-1, arm=0)
    assert dataset.attrs["null"] == "shape"
    estimate = last["error_interval"].sel(bound="estimate")
    np.testing.assert_allclose(last["null_interval"].sel(bound="low"), estimate)
    np.testing.assert_allclose(last["null_interval"].sel(bound="high"), estimate)
    assert "addition alone" not in analysis.growth.sentence(dataset)


def test_the_shape_null_of_a_window_begins_with_the_window():
    run = synthetic.gaussian_run(
        {"R4S32@steps=0.5:1.0": {"shift": 0.1, "window": range(6, 12)}}, decomposition=False, null=False
    )
    low = analysis.growth(run)["null_interval"].sel(coordinate="raw", bound="low").isel(arm=0)
    assert (low[:6] == 0).all()
    assert (low[6:] > 0).all()


@pytest.mark.parametrize("samples", [3, 200])
def test_ring_variance_recovers_the_variance_of_every_ring(samples):
    rng = np.random.default_rng(5)
    lam = synthetic.spectrum()
    states = synthetic.to_field(np.sqrt(lam) * rng.standard_normal((samples, *lam.shape)))
    found = spectrum.ring_variance(xr.DataArray(states, dims=("sample", *synthetic.STATE)))
    freedom = (spectrum.ring_size(xr.DataArray(lam, dims=synthetic.STATE)) * (samples - 1)).values
    assert (np.abs(np.log(found.values / synthetic.true_lam().values)) < 4.5 * np.sqrt(2 / freedom)).all()


def test_a_ring_without_energy_keeps_a_finite_whitening():
    lam = synthetic.spectrum().copy()
    lam[:, spectrum.rings(8, 8) >= 5] = 0
    states = synthetic.to_field(np.sqrt(lam) * np.random.default_rng(0).standard_normal((8, *lam.shape)))
    found = spectrum.ring_variance(xr.DataArray(states, dims=("sample", *synthetic.STATE)))
    assert (found > 0).all()
    assert found[-1] > 1e-5 * lam.mean()


def test_whitening_makes_the_data_themselves_of_unit_size():
    run = synthetic.gaussian_run(samples=64, steps=4)
    latent = run["trajectory"]["latent"]
    deviation = (latent - latent.mean("sample")).expand_dims(arm=["clean", "R4S32"])
    run = run.sel(arm=["clean", "R4S32"])
    run["trajectory"]["delta"] = deviation.transpose("arm", "sample", "step", ...)
    whitened = analysis.growth(run)["error"].sel(coordinate="whitened", arm="R4S32")
    np.testing.assert_allclose(np.sqrt((whitened**2).mean("sample")), np.sqrt(63 / 64), rtol=0.01)


def test_the_floor_is_the_full_arm_and_no_arm_of_its_own():
    run = synthetic.gaussian_run()
    dataset = analysis.growth(run)
    assert list(dataset["arm"].values) == ["R4S32"]
    full = run["metrics"]["delta_l2"].sel(arm="full").isel(step=-1).median()
    variance = run["trajectory"]["latent"].isel(step=-1).values.var(axis=0, ddof=1).mean()
    np.testing.assert_allclose(
        dataset["floor"].sel(coordinate="raw").isel(step=-1), full / np.sqrt(128 * variance), rtol=1e-10
    )
    assert analysis.growth(synthetic.gaussian_run(floor=False))["floor"].isnull().all()


def test_samples_that_are_not_complete_are_left_out():
    run = synthetic.gaussian_run(samples=6)
    run["status"].loc[{"arm": "R4S32", "sample": 4}] = 0
    assert list(analysis.growth(run)["sample"].values) == [0, 1, 2, 3, 5]


def test_a_run_without_latents_is_refused_with_the_option_to_type():
    run = synthetic.gaussian_run()
    del run["trajectory"]["latent"]
    with pytest.raises(runs.RunError, match="--record norms,latents"):
        analysis.growth(run)


def test_the_table_has_the_final_and_the_tenth_percentile_rows_of_every_arm():
    dataset = analysis.growth(synthetic.gaussian_run())
    table = analysis.growth.table(dataset).set_index("measure")
    assert table.loc["final state error", "value"] == pytest.approx(
        float(dataset["error"].sel(coordinate="raw").isel(arm=0, step=-1).median())
    )
    assert table.loc["x0 error at 10% of steps", "value"] == pytest.approx(
        float(dataset["error"].sel(coordinate="x0").isel(arm=0, step=1).median())
    )
    assert (table["low"] <= table["value"]).all()


def test_the_sentence_claims_no_compounding():
    text = analysis.growth.sentence(analysis.growth(synthetic.gaussian_run()))
    assert "does not show that the error compounds" in text


def test_lazy_arrays_give_the_same_numbers():
    run = synthetic.gaussian_run()
    lazy = run.chunk({"sample": 2})
    xr.testing.assert_allclose(analysis.growth(run)["error"], analysis.growth(lazy)["error"], rtol=1e-12)


def test_the_figure_draws_every_arm_in_each_coordinate():
    figure = analysis.growth.figure(analysis.growth(synthetic.gaussian_run()))
    assert len(figure.axes) == 3
    assert all("R4S32" in [line.get_label() for line in axes.lines] for axes in figure.axes)


def test_a_crowd_of_windows_is_not_drawn_but_told():
    masks = {f"R4S32@steps={k}:{k + 1}": {"shift": 0.1, "window": range(k, k + 1)} for k in range(10)}
    run = synthetic.gaussian_run(masks | {"K8": {"shift": 0.1}}, steps=10, samples=3, floor=False)
    figure = analysis.growth.figure(analysis.growth(run))
    drawn = [line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert len(drawn) == 8
    assert drawn[0] == "K8"
    assert "3 of 11 arms are not drawn" in figure._supxlabel.get_text().replace("\n", " ")


def test_the_configuration_names_the_run():
    run = synthetic.gaussian_run()
    assert runs.title(run).startswith("gaussian, DDPM 12 steps")
    assert json.loads(run.attrs["config"])["sampler"] == runs.sampler(run) == "ddpm"
