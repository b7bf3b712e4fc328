"""The additive nulls against closed forms, with exact Gaussian runs and their true spectrum."""

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.answer import null
from analysis.answer.martingale import martingale
from analysis.common import runs, spectrum
from tests.builders import synthetic
from tests.ground_truth import gaussian

SAMPLERS = tuple(gaussian.SCHEDULES)


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return request.param


@pytest.fixture
def exact(monkeypatch):
    """Give the analysis the true spectrum in place of its estimate."""
    monkeypatch.setattr(spectrum, "data_variance", lambda run: synthetic.true_lam())


def test_final_gain_is_the_product_of_step_gains(sampler):
    run = synthetic.gaussian_run(sampler=sampler, steps=15)
    lam = synthetic.true_lam()
    expected = gaussian.final_gain(gaussian.SCHEDULES[sampler](15), lam.values)
    np.testing.assert_allclose(null.final_gain(run, lam).transpose("step", "ring"), expected, rtol=1e-12)


def test_continuous_transport_is_the_limit_of_the_discrete_one():
    lam = synthetic.true_lam()
    for sampler in ("ddim", "flow"):
        gaps = []
        for steps in (50, 500):
            run = synthetic.gaussian_run(sampler=sampler, steps=steps, samples=2)
            discrete, limit = (null.final_gain(run, lam, kind) for kind in null.TRANSPORTS)
            gaps.append(float(np.abs(np.log(discrete / limit)).max()))
        assert gaps[1] < gaps[0] / 5
        assert gaps[1] < 0.01


def test_null_gain_equals_the_measured_gain_of_a_gaussian_model(sampler):
    run = synthetic.gaussian_run(sampler=sampler, steps=15)
    found = null.null_gain(run, synthetic.true_lam()).sel(arm="R4S32")
    np.testing.assert_allclose(found, run["metrics"]["gain"].sel(arm="R4S32"), rtol=1e-10)
    assert found.isel(step=0).isnull().all()


@pytest.mark.parametrize("transport", null.TRANSPORTS)
def test_the_gaussian_null_of_a_pure_shift_is_the_actual_final_error(sampler, transport, exact):
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}}, sampler=sampler, steps=200, samples=2)
    actual = run["trajectory"]["delta"].sel(arm="R4S32").isel(step=-1)
    found = null.null_sum(run, "gaussian", transport).sel(arm="R4S32")
    tolerance = 0.02 if transport == "continuous" and sampler != "ddpm" else 1e-10
    np.testing.assert_allclose(found, actual, rtol=0, atol=tolerance * float(np.abs(actual).max()))


def test_the_model_free_null_equals_the_gaussian_one_for_ddpm(exact):
    run = synthetic.gaussian_run(sampler="ddpm", steps=12)
    np.testing.assert_allclose(null.null_sum(run), null.null_sum(run, "gaussian"), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(null.null_norms(run), null.null_norms(run, "gaussian"), rtol=1e-10, atol=1e-15)
    assert null.null_sum(run).attrs["kind"] == "model-free"


def test_the_last_contribution_is_the_last_injection(sampler, exact):
    run = synthetic.gaussian_run(sampler=sampler)
    last = null.null_norms(run).isel(step=-1)
    np.testing.assert_allclose(last, run["metrics"]["injected_l2"].isel(step=-1), rtol=1e-12)


def test_an_ode_sampler_has_no_model_free_null():
    with pytest.raises(runs.RunError, match="stochastic"):
        null.null_sum(synthetic.gaussian_run(sampler="ddim"), "model-free")


def test_a_run_without_decomposition_is_refused_with_the_option_to_type():
    with pytest.raises(runs.RunError, match="--record latents,injected"):
        null.null_sum(synthetic.gaussian_run(sampler="ddim", decomposition=False, null=False))


def test_a_gaussian_ddpm_passes_the_martingale_check_in_states_and_predictions():
    run = synthetic.gaussian_run(sampler="ddpm", steps=200, samples=100, clean_x0=True)
    found = martingale(run)
    late = found.isel(step=slice(60, None))  # where the state knows something of the image
    for name, coarse in (("state", 0.05), ("prediction", 0.002)):  # what 200 steps leave of the continuous identity
        assert (np.abs(late[name] - 1) < 4 * late[f"{name}_error"] + coarse).all(), name
        assert float(late[f"{name}_error"].isel(step=40)) < 0.1


def test_the_predictions_alone_are_enough_because_the_last_step_lands_on_its_own():
    run = synthetic.gaussian_run(sampler="ddpm", steps=100, samples=20, clean_x0=True)
    states = run["trajectory"].to_dataset()
    lean = run.assign(trajectory=xr.DataTree(states.drop_vars(["latent", "delta"])))
    np.testing.assert_allclose(martingale(lean)["prediction"], martingale(run)["prediction"], rtol=1e-10)
    assert martingale(lean)["state"].isnull().all()


def test_a_denoiser_that_shrinks_its_prediction_fails_the_martingale_check():
    honest = gaussian.gaussian_denoiser(synthetic.spectrum())
    run = synthetic.gaussian_run(
        sampler="ddpm", steps=100, samples=100, clean_x0=True, denoiser=gaussian.affine_mask(honest, 0.8)
    )
    found = martingale(run).isel(step=60)
    assert abs(found["prediction"] - 1) > 5 * found["prediction_error"]


def test_without_clean_predictions_the_check_says_so_and_is_nan():
    found = martingale(synthetic.gaussian_run(sampler="ddpm"))
    assert found["prediction"].isnull().all()
    assert "not recorded" in found.attrs["note"]
    assert "not applicable" in martingale(synthetic.gaussian_run(sampler="flow")).attrs["note"]


def test_transport_of_a_lazy_run_equals_that_of_a_loaded_one():
    run = synthetic.gaussian_run(sampler="ddim")
    lazy = run.chunk({"sample": 3})
    xr.testing.assert_allclose(null.null_sum(run), null.null_sum(lazy).compute(), rtol=1e-12)


def test_the_measure_gives_size_steps_and_coherence_of_the_null(exact):
    """In a Gaussian world the null of a pure shift is the final error itself, and all its steps point one way."""
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}}, sampler="ddim", steps=40)
    found = analysis.null(run)
    actual = run["metrics"]["delta_l2"].sel(arm="R4S32").isel(step=-1)
    np.testing.assert_allclose(found["size"].sel(arm="R4S32"), actual, rtol=1e-10)
    np.testing.assert_allclose(found["step_size"].sum("step"), found["path"])
    np.testing.assert_allclose(found["coherence"], found["size"] / found["path"])
    assert found.attrs["kind"] == "gaussian"
    assert list(found["arm"].values) == ["R4S32"]  # neither clean nor the floor
    table = analysis.null.table(found)
    assert table["null"].tolist() == pytest.approx([float(np.exp(np.log(actual).mean()))])
    assert "gaussian null. R4S32: addition alone gives" in analysis.null.sentence(found)
    assert len(analysis.null.figure(found).axes[0].lines) == 1


def test_the_measure_takes_the_null_that_is_asked_for():
    run = synthetic.gaussian_run(sampler="ddpm")
    assert analysis.null(run).attrs["kind"] == "model-free"
    assert analysis.null(run, "gaussian").attrs["kind"] == "gaussian"
    with pytest.raises(ValueError, match="choose model-free or gaussian"):
        analysis.null(run, "other")


def test_without_the_norms_of_its_steps_the_null_still_has_its_size():
    run = synthetic.gaussian_run(sampler="ddpm")
    run["metrics"] = run["metrics"].to_dataset().drop_vars("null_l2")
    found = analysis.null(run)
    assert "path" not in found
    np.testing.assert_allclose(found["size"], analysis.amplification(synthetic.gaussian_run())["null_sum"])
    assert "of the sum of its steps" not in analysis.null.sentence(found)
    assert "path" not in analysis.null.table(found)
    analysis.null.figure(found)


def test_a_sampler_that_states_no_factors_has_no_gaussian_null():
    run = synthetic.gaussian_run(sampler="ddim")
    for group in ("metrics", "trajectory", "decomposition"):
        data = run[group].to_dataset()
        run[group] = data.assign_coords(state_factor=data["state_factor"] * np.nan)
    with pytest.raises(runs.RunError, match="no Gaussian null"):
        null.null_sum(run)
    with pytest.raises(runs.RunError, match="no Gaussian null"):
        null.null_norms(run)
    assert null.null_gain(run).isnull().all()
    assert analysis.decompose(run)["excess"].isnull().all()
    dataset = analysis.growth(run)
    assert dataset["null_interval"].isel(step=slice(1, None)).isnull().all()
    assert dataset["error_interval"].notnull().all()
