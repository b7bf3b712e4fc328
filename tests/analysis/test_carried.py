"""Closed forms of what arrives of an injection, on systems where they are exact, and where they are not."""

import json

import numpy as np
import pytest

import analysis
from analysis.common import runs, spectrum
from analysis.measures.carried import HELD, LINEAR, held_factor
from tests.builders.synthetic import gaussian_run
from tests.ground_truth import gaussian

MASKS = {"R4S32": {"shift": 0.05}, "K8": {"scale": 0.9}}
PREDICTS = {"ddpm": "epsilon", "ddim": "epsilon", "flow": "flow"}


def of(sampler: str, **options):
    run = gaussian_run(options.pop("masks", MASKS), sampler=sampler, samples=8, floor=False, **options)
    run.attrs["config"] = json.dumps(json.loads(run.attrs["config"]) | {"prediction": PREDICTS[sampler]})
    return run


def deaf(x, alpha, sigma):
    """The image that a network means which says the same of every state: the noise 0, and of a flow the velocity 0."""
    return x / alpha if alpha else x


def deaf_flow(x, alpha, sigma):
    return x


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_the_formula_is_exact_where_the_network_does_not_answer_to_the_state(sampler):
    """The masked network is the clean one and 0.05 in the image, whatever the state: a linear system without J."""
    run = of(sampler, masks={"R4S32": {"shift": 0.05}}, denoiser=deaf if sampler == "ddim" else deaf_flow)
    found = analysis.carried(run).sel(arm="R4S32", formula=HELD)
    np.testing.assert_allclose(found["ratio"], 1, rtol=1e-10)
    np.testing.assert_allclose(found["cosine"], 1, rtol=1e-10)
    assert float((found["missed"] / found["error"]).max()) < 1e-20
    assert analysis.carried.table(analysis.carried(run))["answer"][0] == "predicts"


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_what_a_step_does_to_the_state_is_what_the_papers_say(sampler):
    """a'/a for a prediction of the noise (arXiv 2508.12094), 1 for the Euler step of a flow (arXiv 2508.21091)."""
    schedule = gaussian.SCHEDULES[sampler](12)
    expected = np.ones(12) if sampler == "flow" else schedule.alpha_after / schedule.alpha
    np.testing.assert_allclose(held_factor(of(sampler)), expected, rtol=1e-10)


def test_the_sum_of_a_flow_is_that_of_its_injections():
    """ERTACache's sum of dt e: with dt e the injection of a step, no weight is left."""
    run = of("flow")
    found = analysis.carried(run).sel(formula=HELD)
    for arm in MASKS:
        injected = run["decomposition/injected"].sel(arm=arm).values
        delta = run["trajectory/delta"].sel(arm=arm).values[:, -1]
        total, rest = injected.sum(1), delta - injected.sum(1)
        size, missed = (np.sqrt((field**2).sum((1, 2, 3))) for field in (total, rest))
        error = np.sqrt((delta**2).sum((1, 2, 3)))
        np.testing.assert_allclose(found["ratio"].sel(arm=arm), size / error, rtol=1e-10)
        left = found["left_interval"].sel(arm=arm, bound="estimate")
        np.testing.assert_allclose(left, (missed**2).sum() / (error**2).sum(), rtol=1e-10)


def test_with_the_jacobian_kept_a_linear_system_is_exact_and_without_it_is_not():
    """Gaussian data: every step multiplies a mode by its own gain, and the mask's shift is the same in every state."""
    run = of("ddim", masks={"R4S32": {"shift": 0.05}})
    injected = run["decomposition/injected"]
    gain = gaussian.final_gain(gaussian.ddim(12), gaussian_lam())
    arrived = spectrum.fields((spectrum.modes(injected.values) * gain).sum(2))
    run["decomposition"] = run["decomposition"].to_dataset().assign(
        transport_final=(("arm", "sample", "channel", "y", "x"), arrived)
    )  # fmt: skip
    table = analysis.carried.table(analysis.carried(run)).set_index("formula")
    assert table.loc[LINEAR, "left"] < 1e-20
    assert table.loc[LINEAR, "answer"] == "predicts"
    assert table.loc[HELD, "answer"] == "fails"
    assert table.loc[HELD, "ratio"] > 1.5


def gaussian_lam():
    from tests.builders.synthetic import spectrum as variances

    return variances()


def test_what_the_network_predicts_must_be_known():
    run = of("ddim")
    run.attrs["config"] = json.dumps(json.loads(run.attrs["config"]) | {"prediction": "score"})
    with pytest.raises(runs.RunError, match=r"score.*can be held for epsilon, flow, v_prediction, sample"):
        analysis.carried(run)
