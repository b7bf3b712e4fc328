"""The decomposition's measures against exact systems; expected numbers come from `ground_truth.gaussian`."""

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.common import runs, spectrum
from analysis.measures.decompose import critical_window
from tests.builders import synthetic
from tests.ground_truth import gaussian


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(spectrum, "data_variance", lambda run: synthetic.true_lam())


@pytest.mark.parametrize("sampler", tuple(gaussian.SCHEDULES))
def test_gaussian_data_have_an_excess_gain_of_exactly_one(sampler, exact):
    excess = analysis.decompose(synthetic.gaussian_run(sampler=sampler))["excess"]
    np.testing.assert_allclose(excess.isel(step=slice(1, None)), 1.0, rtol=1e-10)


def test_shares_add_up_and_with_the_cross_terms_give_the_whole_energy():
    run = synthetic.gaussian_run({"R4S32": {"scale": 0.9, "shift": 0.1}})
    dataset = analysis.decompose(run)
    np.testing.assert_allclose(dataset["share"].sum("part"), 1.0, rtol=1e-12)
    metrics = run["metrics"].sel(arm=["R4S32"])
    parts = sum(metrics[f"{name}_l2"] ** 2 for name in ("injected", "propagated", "interaction"))
    np.testing.assert_allclose(dataset["cross"], metrics["delta_l2"] ** 2 / parts - 1, atol=1e-12)


def test_the_first_step_only_injects_and_a_shift_never_interacts():
    dataset = analysis.decompose(synthetic.gaussian_run({"R4S32": {"shift": 0.1}}))
    np.testing.assert_allclose(dataset["mean_share"].isel(step=0).sel(part="injected"), 1.0)
    assert float(dataset["mean_share"].sel(part="interaction").max()) < 1e-20


def test_the_parts_close_and_the_sentence_says_how_well():
    dataset = analysis.decompose(synthetic.gaussian_run())
    assert 0 < dataset.attrs["largest_closure"] < 1e-10
    assert f"close to {dataset.attrs['largest_closure']:.1e}" in analysis.decompose.sentence(dataset)


def test_errors_near_the_floor_are_not_analysed():
    run = synthetic.gaussian_run({"R4S32": {"shift": 1e-5}})  # ten times the floor arm's shift
    assert analysis.decompose(run)["excess"].isnull().all()


def test_without_a_floor_arm_every_error_is_analysed():
    run = synthetic.gaussian_run({"R4S32": {"shift": 1e-5}}, floor=False)
    assert analysis.decompose(run)["excess"].isel(step=slice(1, None)).notnull().all()


def test_two_peaked_data_show_a_critical_window_and_gaussian_data_none():
    options = {"sampler": "ddpm", "steps": 50, "samples": 16}
    bimodal = synthetic.gaussian_run(denoiser=gaussian.bimodal_denoiser(1.0, 0.2), **options)
    found = np.flatnonzero(analysis.decompose(bimodal)["critical"].isel(arm=0))
    assert found.size > 3
    assert found.min() > 25  # the peaks part late
    assert not analysis.decompose(synthetic.gaussian_run(**options))["critical"].any()


def test_the_critical_window_is_the_best_stretch_and_only_if_it_multiplies_to_more_than_one_and_a_half():
    gains = xr.DataArray([[1.0, 1.0, 1.3, 1.3, 0.99, 1.2, 1.0, 0.5]], dims=("arm", "step"))
    assert list(critical_window(gains)[0].values) == [False, False, True, True, True, True, False, False]
    assert not critical_window(gains.clip(max=1.1)).any()
    assert not critical_window(gains * np.nan).any()


def test_a_run_without_decomposition_is_refused_with_the_option_to_type():
    with pytest.raises(runs.RunError, match="--record decomposition"):
        analysis.decompose(synthetic.gaussian_run(decomposition=False, null=False))


def test_the_table_and_the_figure_cover_every_arm():
    dataset = analysis.decompose(synthetic.gaussian_run({"R4S32": {"shift": 0.1}, "K8": {"scale": 0.9}}))
    assert list(analysis.decompose.table(dataset)["arm"]) == ["R4S32"] * 3 + ["K8"] * 3
    assert [axes.get_title(loc="left") for axes in analysis.decompose.figure(dataset).axes[:2]] == ["a  R4S32", "b  K8"]


def test_the_sentence_tells_of_whole_masks_and_counts_their_impulses():
    masks = {"R4S32": {"shift": 0.1}} | {f"R4S32@steps={j}:{j + 1}": {"shift": 0.1, "window": [j]} for j in range(3)}
    text = analysis.decompose.sentence(analysis.decompose(synthetic.gaussian_run(masks)))
    assert "R4S32: of the error" in text
    assert "steps=" not in text
    assert "3 more arms are in the table" in text


def test_linear_gains_are_compared_with_those_of_gaussian_data(exact):
    """A Gaussian's tangent is its secant, and its worst direction is its largest mode: both excesses are 1."""
    run = synthetic.gaussian_run({"R4S32": {"shift": 0.1}})
    metrics = run["metrics"].to_dataset()
    gaussian_gain = spectrum.step_gain(run, synthetic.true_lam()).max("ring")
    worst = gaussian_gain.expand_dims(sample=metrics["sample"]).transpose("sample", "step")
    run["metrics"] = metrics.assign(tangent_gain=metrics["gain"], worst_gain=2 * worst)
    found = analysis.decompose(run)
    tangent = found["tangent"].sel(arm="R4S32", bound="estimate")
    np.testing.assert_allclose(tangent[1:], 1, rtol=1e-10)
    np.testing.assert_allclose(found["direction"], 2, rtol=1e-10)
    assert {"excess gain, tangent", "worst direction"} <= set(analysis.decompose.table(found))
    labels = [text.get_text() for text in analysis.decompose.figure(found).axes[-1].get_legend().get_texts()]
    assert "median, worst direction" in labels


def test_the_heading_says_the_confidence_that_was_asked_for():
    figure = analysis.decompose.figure(analysis.decompose(synthetic.gaussian_run(), confidence=0.8))
    assert figure.legends[0].get_title().get_text().endswith("80% BCa bands")
