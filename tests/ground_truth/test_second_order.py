"""Samplers from another distribution that ask twice a step (Heun) or remember (2M), on exact Gaussian systems.

Expected paths, injections and propagated errors are computed by `tests.oracles.ode` in float64.
"""

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tests.oracles import ode
from tests.plugins import installed
from tracer.lanes import evaluations_of_step
from tracer.plan import PlanError, plan
from tracer.trajectory import sample_noise

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)
STEPS, EXACT = 25, 1e-10
RECORD = "latents,x0,decomposition,tangent"
clean = gaussian.gaussian_denoiser(LAM)
masked = gaussian.affine_mask(clean, scale=0.95, shift=0.02)


@pytest.fixture(scope="module", autouse=True)
def plugins():
    with installed(tracer.SAMPLERS):
        yield


def request(sampler, **settings):
    return tracer.Request(
        Analytic(clean, masked), **{"arms": "R4S32", "samples": 2, "steps": STEPS, "sampler": sampler, "floor": False}
        | settings,
    )  # fmt: skip


def levels_of(sampler):
    levels = plan(request(sampler)).schedule
    return levels.alpha, levels.sigma


class Heun:
    """A path's step from its state alone."""

    def __init__(self, alpha, sigma):
        self.levels = alpha, sigma

    def start(self):
        return None

    def step(self, denoise, x, past, i):
        """The state after step i, and what the path remembers."""
        alpha, sigma = self.levels
        return ode.heun(lambda state, k: denoise(state, alpha[k], sigma[k]), x, alpha, sigma, i), None


class Multistep(Heun):
    """A path's step from its state and its last prediction."""

    def step(self, denoise, x, past, i):
        alpha, sigma = self.levels
        now = denoise(x, alpha[i], sigma[i])
        return ode.multistep(x, now, past, alpha, sigma, i), now


SOLVERS = {"heun": Heun, "dpmpp-2m": Multistep}


def expected(sampler, window=range(STEPS)):
    """Clean state, delta, injected and propagated after every step [step, sample, ...], from the tracer's own noise."""
    solver = SOLVERS[sampler](*levels_of(sampler))
    samples = [tracer.Sample(i, i) for i in range(2)]
    x = sample_noise(samples, -1, (1, 8, 8), torch.empty(0, dtype=torch.float64)).numpy()
    y, x_past, y_past, rows = x, solver.start(), solver.start(), []
    for i in range(STEPS):
        other = masked if i in window else clean
        F_x, F_x_past = solver.step(clean, x, x_past, i)
        G_x, _ = solver.step(other, x, x_past, i)
        F_y, _ = solver.step(clean, y, y_past, i)
        G_y, G_y_past = solver.step(other, y, y_past, i)
        rows.append((F_x, G_y - F_x, G_x - F_x, F_y - F_x))
        x, y, x_past, y_past = F_x, G_y, F_x_past, G_y_past
    return [np.stack(column) for column in zip(*rows, strict=True)]


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("arm", ["R4S32", "R4S32@steps=5:12"])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_paths_injections_and_propagation_are_those_of_the_solver_on_paper(tmp_path, sampler, arm):
    path = tracer.trace(
        Analytic(clean, masked), arm, samples=2, steps=STEPS, sampler=sampler, record=RECORD, floor=False,
        out=tmp_path / "run",
    )  # fmt: skip
    run = tracer.open_run(path)
    window = range(5, 12) if "steps" in arm else range(STEPS)
    x, delta, injected, propagated = expected(sampler, window)
    ordered = lambda array: array.transpose("step", "sample", ...).values  # noqa: E731
    norm = lambda v: np.linalg.norm(v.reshape(*v.shape[:2], -1), axis=-1)  # noqa: E731
    metrics = run["metrics"].sel(arm=arm)
    assert relative(ordered(run["trajectory"].latent), x) < EXACT
    assert relative(ordered(run["trajectory"].delta.sel(arm=arm)), delta) < EXACT
    assert relative(ordered(run["decomposition"].injected.sel(arm=arm)), injected) < EXACT
    assert relative(ordered(metrics.propagated_l2), norm(propagated)) < EXACT
    before = np.concatenate([np.zeros_like(delta[:1]), delta[:-1]])
    departed = norm(before) > 0
    gain = norm(propagated)[departed] / norm(before)[departed]
    assert relative(ordered(metrics.gain)[departed], gain) < EXACT
    assert np.nanmax(metrics.closure) < 1e-12


def test_the_clean_heun_path_and_its_secant_and_tangent_gains_have_their_closed_form(tmp_path):
    """A Gaussian mode's Heun step is a multiplication; one mode per sample isolates it."""
    alpha, sigma = levels_of("heun")
    gains = ode.heun_gain(LAM, alpha, sigma)
    push = np.zeros((2, 1, 8, 8))
    push[0, 0, 0, 0] = push[1, 0, 7, 7] = 100.0
    denoiser = Analytic(clean, lambda x, *level: clean(x, *level) + push)
    path = tracer.trace(
        denoiser, "R4S32@steps=0:1", samples=2, batch_size=2, steps=STEPS, sampler="heun", record=RECORD, floor=False,
        out=tmp_path / "run",
    )  # fmt: skip
    run = tracer.open_run(path)
    start = sample_noise([tracer.Sample(i, i) for i in range(2)], -1, (1, 8, 8), torch.empty(0, dtype=torch.float64))
    want = start.numpy() * np.cumprod(gains, axis=0)[:, None]
    assert relative(run["trajectory"].latent.transpose("step", "sample", ...).values, want) < EXACT
    modes = np.stack([gains[1:, 0, 0, 0], gains[1:, 0, 7, 7]], 1)
    metrics = run["metrics"].to_dataset().isel(arm=1, step=slice(1, None)).transpose("step", "sample")
    np.testing.assert_allclose(metrics.gain, np.abs(modes), rtol=EXACT)
    np.testing.assert_allclose(metrics.tangent_gain, np.abs(modes), rtol=1e-8)  # a central difference


def test_second_order_is_second_order():
    """Against many steps of DDIM's own limit: the error of the final state falls by about 4 when steps double."""
    x = np.random.default_rng(0).normal(size=(1, 8, 8))
    errors = []
    for steps in (20, 40, 80):
        t = np.linspace(1, 0, steps + 1)
        r = 0.02 * (80 / 0.02) ** t  # a smooth schedule, variance exploding
        alpha, sigma = np.ones_like(r), r
        gain = np.prod(ode.heun_gain(LAM, alpha, sigma), axis=0)
        exact = np.sqrt((LAM + r[-1] ** 2) / (LAM + r[0] ** 2))
        errors.append(np.abs((gain - exact) * x).max())
    assert 3 < errors[0] / errors[1] < 5
    assert 3 < errors[1] / errors[2] < 5


@pytest.mark.parametrize("sampler", SOLVERS)
def test_the_additive_null_is_refused_by_name(sampler):
    with pytest.raises(PlanError, match=rf"--record null: .*'{sampler}'.*--sampler ddpm or ddim"):
        plan(request(sampler, record="null"))


def test_every_evaluation_is_counted(tmp_path):
    """Heun asks twice a step but in the last one; two lanes, three with an error to propagate and inject."""
    counted = plan(request("heun", record="norms"))
    assert [evaluations_of_step(counted, i) for i in (0, 10, STEPS - 1)] == [4, 4, 2]
    tracer.trace(counted.denoiser, "R4S32", samples=2, steps=STEPS, sampler="heun", record="norms", floor=False,
                 out=tmp_path / "run")  # fmt: skip
    assert counted.denoiser.calls == counted.evaluations()


def test_a_sampler_that_never_ends_its_step_is_stopped(tmp_path):
    from dataclasses import replace

    endless = replace(tracer.SAMPLERS["heun"], name="endless", step=lambda s, i, x, p, h: tracer.Probe(x, s.level(i)))
    tracer.SAMPLERS.register("endless", endless)
    with pytest.raises(tracer.SamplerError, match="'endless' asks for more than its 2 evaluations"):
        tracer.trace(Analytic(clean, masked), steps=3, samples=1, sampler="endless", out=tmp_path / "run")


def test_a_step_that_is_not_affine_in_one_prediction_says_so_in_the_store(tmp_path):
    path = tracer.trace(Analytic(clean, masked), steps=3, samples=1, sampler="heun", out=tmp_path / "run")
    run = tracer.open_run(path)
    assert (run.attrs["sampler"], bool(run.attrs["sampler_stochastic"])) == ("heun", False)
    assert run["metrics"].state_factor.isnull().all()
    assert run["metrics"].prediction_factor.isnull().all()
