"""Tangent and worst-case gains against dense Jacobians, closed forms, and the embedded network's own adjoint."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer import gains as jacobian
from tracer.denoisers import Evaluation, Moment, load
from tracer.lanes import CLEAN, evaluations_of_step
from tracer.plan import plan
from tracer.request import Request
from tracer.samplers import SAMPLERS, Prediction

SHAPE = (1, 4, 4)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def curved(weights, dtype):
    """x + tanh(W x), another W in every sample; states [lane, sample, 1, 4, 4]."""
    weights = weights.to(dtype)
    return lambda states: states + torch.tanh(torch.einsum("nij,lnj->lni", weights, states.flatten(2))).view_as(states)


def dense(step, x):
    """The Jacobian of every sample [sample, 16, 16], entry by entry with torch.autograd, in float64."""
    whole = torch.autograd.functional.jacobian(lambda x: step(x[None])[0], x.double())
    count = len(x)
    return whole.reshape(count, 16, count, 16).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-5), (torch.float32, 4e-4)])
def test_gains_are_those_of_the_dense_jacobian(dtype, close):
    weights, x = normal(3, 16, 16) / 4, normal(3, *SHAPE, seed=1)
    exact = dense(curved(weights, torch.float64), x)
    step, x32 = curved(weights, dtype), x.to(dtype)
    worst = jacobian.worst_gain(step, x32, normal(3, *SHAPE, seed=2, dtype=dtype), products=16)
    np.testing.assert_allclose(worst, np.linalg.svd(exact, compute_uv=False)[:, 0], rtol=close)
    errors = normal(2, 3, *SHAPE, seed=3) * torch.tensor([1e-6, 50.0]).view(2, 1, 1, 1, 1)  # the size does not matter
    want = torch.einsum("nij,anj->ani", exact, errors.flatten(2)).norm(dim=-1) / errors.flatten(2).norm(dim=-1)
    np.testing.assert_allclose(jacobian.tangent_gain(step, x32, errors.to(dtype)), want, rtol=close)


def test_no_error_has_no_tangent_gain_and_a_map_of_low_rank_ends_early():
    step = lambda states: 3 * states.mean((-1, -2), keepdim=True).expand_as(states)  # noqa: E731
    x = normal(2, *SHAPE)
    errors = torch.stack([torch.zeros_like(x), torch.ones_like(x)])
    found = jacobian.tangent_gain(step, x, errors)
    assert found[0].isnan().all()
    np.testing.assert_allclose(found[1], 3, rtol=1e-10)
    np.testing.assert_allclose(jacobian.worst_gain(step, x, normal(2, *SHAPE, seed=5)), 3, rtol=1e-10)


def test_a_network_that_cannot_be_differentiated_is_refused():
    with pytest.raises(RuntimeError, match="differentiate"):
        jacobian.worst_gain(lambda states: states.detach() * 2, normal(1, *SHAPE), normal(1, *SHAPE))


class Torch(Analytic):
    """The exact Gaussian in torch operations, so that it can be differentiated."""

    @contextmanager
    def opened(self, samples, *, guidance, mask_seed, record):
        def predict(x, moment: Moment, lanes):
            shifts = torch.tensor([0.0 if str(lane) == "clean" else 0.05 for lane in lanes], dtype=x.dtype)
            shrink = moment.alpha * LAM / (moment.alpha**2 * LAM + moment.sigma**2)
            x0 = torch.from_numpy(shrink) * x + shifts.view(-1, 1, 1, 1, 1)
            eps = (x - moment.alpha * x0) / moment.sigma
            return Prediction(eps - x0 if self.prediction == "flow" else eps, None)

        yield Evaluation(predict)


LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_a_gaussian_run_has_the_closed_form_gains(tmp_path, sampler):
    denoiser = Torch(None, None, prediction="flow" if sampler == "flow" else "epsilon")
    record = ["decomposition", "tangent", "worst"]
    path = tracer.trace(
        denoiser, ["R1S0", "full"], samples=3, batch_size=2, steps=12, sampler=sampler, record=record,
        out=tmp_path / "run",
    )  # fmt: skip
    run = tracer.open_run(path)
    coords = run["metrics"].ds.coords
    levels = [coords[name].values for name in ("alpha", "sigma", "alpha_after", "sigma_after")]
    gains = gaussian.step_gain(gaussian.Schedule(sampler, coords["timestep"].values, *levels), LAM)
    worst = np.abs(gains).reshape(12, -1).max(1)
    found = run["metrics"].worst_gain.values / worst
    assert (found <= 1 + 1e-9).all()  # Lanczos comes from below
    assert found.min() > 0.99  # 64 evenly spaced modes are the hard case
    metrics = run["metrics"].sel(arm="R1S0")
    np.testing.assert_allclose(metrics.tangent_gain[:, 1:], metrics.gain[:, 1:], rtol=1e-8)  # a linear map: the secant
    assert metrics.tangent_gain[:, 0].isnull().all()
    assert run["metrics"].tangent_gain.sel(arm="full").isnull().all()


def test_linear_gains_are_counted_among_the_evaluations():
    counted = plan(Request(Torch(None, None), "R1S0", samples=1, steps=5, record="tangent,worst"))
    assert [evaluations_of_step(counted, i) for i in (0, 1)] == [3 + 41, 3 + 2 + 41]


def test_the_embedded_networks_backward_pass_is_the_adjoint_of_its_central_differences():
    """<J u, w> = <u, J^T w>, through the seam and the learned-range variance; and the worst direction beats others."""
    denoiser = load("dit")
    checked = plan(Request(denoiser, "R4S32", samples=2, steps=50, guidance=1.0))
    i, levels = 25, checked.schedule
    moment = Moment(i, 50, levels.timestep[i], levels.alpha[i], levels.sigma[i])
    x = normal(2, *denoiser.shape, dtype=torch.float32)
    noise, u, w = (normal(2, *denoiser.shape, seed=seed, dtype=torch.float32) for seed in (1, 2, 3))
    opened = denoiser.opened(checked.samples, guidance=1.0, mask_seed=0, record=())
    with torch.no_grad(), opened as evaluation:

        def step(states):
            prediction = evaluation.predict(states, moment, [CLEAN.spec] * len(states))
            return SAMPLERS["ddpm"].step(levels, i, states, [prediction], []).land(noise)

        with torch.enable_grad():
            leaf = x.clone().requires_grad_(True)
            (pulled,) = torch.autograd.grad(step(leaf[None])[0], leaf, w)
        along = jacobian._along(step, x, (u / jacobian._column(jacobian.norms(u), u))[None])[0]
        left = (along * w).flatten(1).sum(1) * jacobian.norms(u)
        right = (u * pulled).flatten(1).sum(1)
        # the difference of two nearly orthogonal directions: its error counts against their lengths
        assert (left - right).abs().max() < 1e-3 * (jacobian.norms(u) * jacobian.norms(pulled)).min()
        worst = jacobian.worst_gain(step, x, u, products=4)
        assert (worst > jacobian.tangent_gain(step, x, u[None])[0]).all()
