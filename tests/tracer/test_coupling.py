"""Noise coupled over numbers of steps: exact marginals, and one Brownian path under every grid."""

import itertools

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer.noise import check_coupled, coupled_noise, increments
from tracer.request import PlanError
from tracer.samplers import SAMPLERS, noise_levels

KEPT = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SNR = KEPT / (1 - KEPT)
LIKE = torch.empty(0, dtype=torch.float64)
NESTED, OTHER = (10, 28, 1000), (7, 16, 50, 333)  # 999 / 9 and 999 / 27 are whole: every third level of 28 is one of 10


def noises(steps, samples, size=(1, 8, 8), **how):
    """[step, sample, ...] of a run of so many steps, and its timesteps."""
    levels = noise_levels("ddpm", steps, "epsilon")
    drawn = [coupled_noise(samples, i, size, LIKE, schedule=levels, kept=KEPT, **how) for i in range(steps - 1)]
    return torch.stack(drawn).numpy(), levels.timestep.astype(int)


@pytest.mark.parametrize("steps", NESTED + OTHER)
def test_a_steps_noise_is_a_unit_combination_of_normals_that_no_other_step_uses(steps):
    """So it is exactly N(0, 1) and independent over steps, whatever the grid."""
    timestep = noise_levels("ddpm", steps, "epsilon").timestep.astype(int)
    used = []
    for first, last in itertools.pairwise(timestep):
        weights = increments(KEPT, first, last)
        assert (weights**2).sum() == pytest.approx(1, abs=1e-12)
        used += range(last + 1, first + 1)
    assert sorted(used) == list(range(1, 1000))


def test_the_noise_looks_standard_normal_and_independent():
    drawn, _ = noises(16, [tracer.Sample(i, i) for i in range(4)], (1, 32, 32))
    each = drawn.reshape(60, 1024)
    assert abs(each.mean(1)).max() < 4.5 / 32
    assert abs(each.var(1) - 1).max() < 4.5 * np.sqrt(2) / 32
    assert abs(np.corrcoef(each) - np.eye(60)).max() < 5 / 32
    assert abs((each**4).mean() - 3) < 0.1


def test_the_noise_of_a_coarse_step_is_that_of_the_fine_steps_in_it():
    samples = [tracer.Sample(0, 7), tracer.Sample(1, 8, path=3)]
    fine, fine_at = noises(28, samples)
    coarse, coarse_at = noises(10, samples)
    width = np.sqrt(np.diff(SNR[fine_at]))
    for i in range(9):
        assert fine_at[3 * i] == coarse_at[i]
        parts = (width[3 * i : 3 * i + 3, None, None, None, None] * fine[3 * i : 3 * i + 3]).sum(0)
        np.testing.assert_allclose(coarse[i], parts / np.sqrt(SNR[coarse_at[i + 1]] - SNR[coarse_at[i]]), atol=1e-12)


def test_grids_that_are_not_nested_are_correlated_as_the_overlap_of_their_ranges_says():
    """Cov = overlap of the two SNR ranges / sqrt(product of their lengths), by the coefficients themselves."""
    one, other = (noise_levels("ddpm", steps, "epsilon").timestep.astype(int) for steps in (7, 16))
    for a, b in itertools.pairwise(one):
        for c, d in itertools.pairwise(other):
            weights = [np.zeros(1000), np.zeros(1000)]
            weights[0][np.arange(a, b, -1)] = increments(KEPT, a, b)
            weights[1][np.arange(c, d, -1)] = increments(KEPT, c, d)
            overlap = max(0.0, min(SNR[b], SNR[d]) - max(SNR[a], SNR[c]))
            want = overlap / np.sqrt((SNR[b] - SNR[a]) * (SNR[d] - SNR[c]))
            assert weights[0] @ weights[1] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("steps", [7, 16, 50])
def test_under_a_constant_prediction_runs_of_any_number_of_steps_meet_at_the_same_state(tmp_path, steps):
    """The posterior step is Brownian motion in SNR time, so the real tracer ends at t = 0 where 200 steps end."""
    target = np.random.default_rng(0).standard_normal((1, 8, 8))

    def constant(x, alpha, sigma):
        return np.broadcast_to(target, x.shape)

    def before_the_last_step(count, noise):
        path = tracer.trace(
            Analytic(constant, constant), "R1S0", samples=2, steps=count, noise=noise, record="latents", floor=False,
            out=tmp_path / f"{count}-{noise}",
        )  # fmt: skip
        return tracer.open_run(path)["trajectory"].latent.isel(step=-2).values

    fine = before_the_last_step(200, "coupled")
    np.testing.assert_allclose(before_the_last_step(steps, "coupled"), fine, atol=1e-10)
    assert abs(before_the_last_step(steps, "independent") - fine).max() > 1e-3


def test_paths_and_forks_hold_for_coupled_noise_too():
    samples = [tracer.Sample(p, 5, start=0, path=p) for p in range(3)]
    drawn, _ = noises(12, samples, fork=6)
    assert (drawn[:6] == drawn[:6, :1]).all()
    assert not (drawn[6:, 0] == drawn[6:, 1]).any()
    alone, _ = noises(12, samples[:1])
    np.testing.assert_array_equal(drawn[:, 0], alone[:, 0])


def test_levels_off_the_training_timesteps_are_refused_and_an_ode_has_nothing_to_couple():
    levels = SAMPLERS["flow"].schedule(10, "flow", {})
    with pytest.raises(PlanError, match="--noise independent"):
        check_coupled(levels, {})
    tracer.plan.plan(tracer.Request(Analytic(None, None), samples=1, steps=5, sampler="ddim", noise="coupled"))


def test_the_schedule_of_the_oracle_is_the_tracers():
    np.testing.assert_allclose(gaussian.ddpm(28).alpha ** 2, KEPT[noises(28, [tracer.Sample(0, 0)])[1]])
