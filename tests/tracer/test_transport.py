"""Transported injections through the real tracer: dense Jacobians, linear systems, and the embedded SD3 against jvp."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tracer
from interventions import parse
from tests.builders.analytic import Analytic
from tests.ground_truth import constructed, gaussian
from tests.oracles.three_paths import norm
from tests.plugins import installed
from tracer.denoisers import Moment, load
from tracer.gains import norms, reach
from tracer.lanes import CLEAN, lanes_of_step
from tracer.plan import plan
from tracer.request import Request

WEIGHTS = np.random.default_rng(0).standard_normal((64, 64)) / 8
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def plugins():
    with installed(tracer.SAMPLERS):
        yield


def curved(x, alpha, sigma):
    """A prediction in which every pixel depends on every other: tanh(W x)."""
    return np.tanh(x.reshape(*x.shape[:-3], 64) @ WEIGHTS.T).reshape(x.shape)


def jacobian(x):
    """Of `curved`, [sample, 64, 64], by hand."""
    inner = x.reshape(len(x), 64) @ WEIGHTS.T
    return (1 - np.tanh(inner) ** 2)[:, :, None] * WEIGHTS


def masked(x, alpha, sigma):
    return 1.3 * curved(x, alpha, sigma) + 0.2


def run_of(folder, sampler, clean, masked, arm="R1S0", steps=20, **settings):
    denoiser = Analytic(clean, masked, prediction="flow" if sampler == "flow" else "epsilon")
    path = tracer.trace(
        denoiser, arm, samples=3, batch_size=2, steps=steps, sampler=sampler, floor=False, out=folder / "run",
        **{"record": "transport,latents"} | settings,
    )  # fmt: skip
    return tracer.open_run(path).sel(arm=arm)


@pytest.mark.parametrize("arm", ["R1S0", "R1S0@steps=4:12"])
@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_transport_is_the_product_of_dense_jacobians_and_injections(tmp_path, sampler, arm):
    """Central differences in float64 are within 1e-6 of it."""
    run = run_of(tmp_path, sampler, curved, masked, arm)
    coords = run["metrics"].ds.coords
    states = np.stack([run["trajectory"].noise.values, *run["trajectory"].latent.transpose("step", ...).values])
    injected = run["decomposition"].injected.transpose("step", ...).values
    tau, sizes = np.zeros((3, 64)), []
    for i in range(20):
        p, q = coords["state_factor"].values[i], coords["prediction_factor"].values[i]
        step = p * np.eye(64) + q * jacobian(states[i])
        tau = np.einsum("nij,nj->ni", step, tau) + injected[i].reshape(3, 64)
        sizes.append(np.linalg.norm(tau, axis=1))
    np.testing.assert_allclose(run["metrics"].transport_l2.values.T, sizes, rtol=1e-6, atol=1e-12)
    final = run["decomposition"].transport_final.values.reshape(3, 64)
    assert np.linalg.norm(final - tau) < 1e-6 * np.linalg.norm(tau)


@pytest.mark.parametrize("sampler", ["ddim", "flow", "heun", "dpmpp-2m"])
def test_in_a_linear_system_the_replay_is_the_transport(tmp_path, sampler):
    """For samplers of two evaluations and with a history too: the tangent has a history of its own."""
    clean = constructed.normal
    run = run_of(tmp_path, sampler, clean, gaussian.affine_mask(clean, scale=1.2, shift=0.1))
    replay, tau = run["trajectory"].final_replay.values, run["decomposition"].transport_final.values
    assert norm(replay - tau).max() < 1e-8 * norm(replay).min()
    np.testing.assert_allclose(run["metrics"].transport_l2, run["metrics"].replay_l2, rtol=1e-8)


def test_an_error_too_large_to_be_linear_departs_from_its_transport_and_a_small_one_does_not(tmp_path):
    def ratio(arm):
        run = run_of(tmp_path / arm, "ddim", curved, masked, arm)
        replay, tau = run["trajectory"].final_replay.values, run["decomposition"].transport_final.values
        return norm(replay - tau).max() / norm(tau).min()

    assert ratio("R1S0") > 0.05
    assert ratio("R1S0@strength=0.001") < 1e-3


def test_a_transported_error_costs_two_lanes_but_at_the_step_that_makes_it():
    def lanes(record):
        request = Request(
            Analytic(curved, masked), "R1S0", samples=1, steps=5, sampler="ddim", record=record, floor=False
        )
        return [len(lanes_of_step(plan(request), i)) for i in range(5)]

    assert lanes("replay") == [2, 4, 4, 4, 4]
    assert lanes("transport") == lanes("verdict") == [2, 6, 6, 6, 6]


def test_the_embedded_sd3s_difference_quotient_is_its_jvp():
    """One step of the flow in float32, along an injection; a run of 28 steps ends within 3e-4 (measured)."""
    denoiser = load("sd3")
    checked = plan(Request(denoiser, "R4S32", samples=2, steps=28, guidance=1.0, record="norms"))
    i, levels = 14, checked.schedule
    moment = Moment(i, 28, *levels.level(i))
    x = torch.randn((2, *denoiser.shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), denoiser.opened(checked.samples, guidance=1.0, mask_seed=0, record=()) as evaluation:

        def step(states, spec=CLEAN.spec):
            prediction = evaluation.predict(states, moment, [spec] * len(states))
            return checked.sampler.step(levels, i, states, [prediction], []).land(None)

        tangent = step(x[None], parse("R4S32"))[0] - step(x[None])[0]
        with sdpa_kernel(SDPBackend.MATH):
            _, exact = torch.func.jvp(lambda states: step(states[None])[0], (x,), (tangent,))
        width = reach(x, tangent)
        ahead, behind = step(torch.stack([x + width * tangent, x - width * tangent]))
    quotient = (ahead - behind) / (2 * width)
    assert (norms(quotient - exact) / norms(exact)).max() < 3e-4
