"""The trajectory loop against exact Gaussian systems (tests/ground_truth/gaussian.py imports nothing of it)."""

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer.lanes import lanes_of_step
from tracer.plan import PlanError, plan
from tracer.request import Request
from tracer.trajectory import sample_noise

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)
KIND = {"ddpm": "epsilon", "ddim": "epsilon", "flow": "flow"}


def system(sampler="ddpm", **settings):
    clean = gaussian.gaussian_denoiser(LAM)
    masked = gaussian.affine_mask(clean, scale=0.95, shift=0.02)
    settings.setdefault("fraction", 0.4 if sampler == "ddpm" else None)
    return Analytic(clean, masked, prediction=KIND[sampler], **settings)


def planned(denoiser, arms=("R1S0",), **settings):
    """Without the floor, unless it is named."""
    return plan(Request(denoiser, arms, **{"floor": False, "samples": 1} | settings))


def expected(denoiser, levels, sampler, samples, window=None):
    """The same paths in numpy, from the same noise."""
    schedule = gaussian.Schedule(
        sampler, levels.timestep, levels.alpha[:-1], levels.sigma[:-1], levels.alpha[1:], levels.sigma[1:]
    )
    like = torch.empty(0, dtype=torch.float64)
    start = sample_noise(samples, -1, denoiser.shape, like).numpy()
    noise = np.stack([sample_noise(samples, i, denoiser.shape, like).numpy() for i in range(schedule.steps)])
    return gaussian.paths(
        schedule, denoiser.clean, denoiser.masked, start, noise, window,
        fraction=denoiser.fraction or 0.0, masked_fraction=denoiser.masked_fraction,
    )  # fmt: skip


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_error_of_a_known_perturbation_equals_the_closed_form(tmp_path, sampler):
    denoiser = system(sampler, masked_fraction=0.6 if sampler == "ddpm" else None)
    record = ("norms", "latents", "decomposition")
    path = tracer.trace(
        denoiser, ["R1S0"], samples=3, steps=50, sampler=sampler, batch_size=2, record=record, out=tmp_path / "run"
    )
    run = tracer.open_run(path)
    checked = planned(denoiser, samples=3, steps=50, sampler=sampler)
    want = expected(denoiser, checked.schedule, sampler, checked.samples)
    masked = {name: run["metrics"][name].sel(arm="R1S0").values.T for name in run["metrics"].data_vars}
    norm = lambda v: np.linalg.norm(v.reshape(*v.shape[:2], -1), axis=-1)  # noqa: E731
    assert relative(run["trajectory"].latent.transpose("step", "sample", ...).values, want.clean) < 1e-10
    assert relative(run["trajectory"].delta.sel(arm="R1S0").transpose("step", ...).values, want.delta) < 1e-10
    injected = run["decomposition"].injected.sel(arm="R1S0").transpose("step", ...).values
    assert relative(injected, want.injected) < 1e-10
    assert relative(masked["injected_l2"], norm(want.injected)) < 1e-10
    assert relative(masked["propagated_l2"], norm(want.propagated)) < 1e-10
    assert relative(masked["interaction_l2"], norm(want.interaction)) < 1e-8
    assert relative(masked["x0_l2"], norm(want.x0_masked - want.x0_clean)) < 1e-10
    before = np.concatenate([np.zeros_like(want.delta[:1]), want.delta[:-1]])
    assert relative(masked["gain"][1:], norm(want.propagated)[1:] / norm(before)[1:]) < 1e-10
    assert np.isnan(masked["gain"][0]).all()
    assert np.nanmax(masked["closure"]) < 1e-12


def test_an_arm_departs_at_its_first_step_and_returns_to_the_clean_map_after_its_window(tmp_path):
    denoiser = system()
    arm = "R1S0@steps=5:8"
    path = tracer.trace(denoiser, [arm], samples=2, steps=20, out=tmp_path / "run")
    run = tracer.open_run(path)
    checked = planned(denoiser, arm, samples=2, steps=20)
    want = expected(denoiser, checked.schedule, "ddpm", checked.samples, window=range(5, 8))
    got = run["trajectory"].delta.sel(arm=arm).transpose("step", ...).values
    assert (got[:5] == 0).all()
    assert (got[5] != 0).any()
    assert relative(got, want.delta) < 1e-10


def test_null_contributions_of_a_gaussian_are_the_injection_seen_through_its_posterior_mean(tmp_path):
    denoiser = system()
    path = tracer.trace(denoiser, ["R1S0"], samples=2, steps=20, record=("null",), out=tmp_path / "run")
    run = tracer.open_run(path)
    checked = planned(denoiser, samples=2, steps=20)
    want = expected(denoiser, checked.schedule, "ddpm", checked.samples)
    levels = checked.schedule
    slope = [gaussian.x0_sensitivity(levels.alpha[k], levels.sigma[k], LAM) for k in range(1, 20)] + [np.ones_like(LAM)]
    contributions = np.stack(slope)[:, None] * want.injected
    assert relative(run["decomposition"].null_sum.sel(arm="R1S0").values, contributions.sum(0)) < 1e-10
    sizes = np.linalg.norm(contributions.reshape(20, 2, -1), axis=-1)
    assert relative(run["metrics"].null_l2.sel(arm="R1S0").values.T, sizes) < 1e-10


def test_a_sample_is_the_same_whatever_the_batch_the_other_arms_and_the_sample_count(tmp_path):
    few = tracer.trace(system(), ["R1S0"], samples=2, steps=10, batch_size=1, out=tmp_path / "few")
    many = tracer.trace(system(), ["R2S0", "R1S0", "R3S0"], samples=5, steps=10, batch_size=4, out=tmp_path / "many")
    few, many = tracer.open_run(few), tracer.open_run(many)
    assert (few["trajectory"].latent.values == many["trajectory"].latent.values[:2]).all()
    arm = dict(arm="R1S0")
    assert (few["trajectory"].delta.sel(arm).values == many["trajectory"].delta.sel(arm).values[:2]).all()


def test_arms_share_the_clean_lane_and_impulses_cost_half_a_trajectory_each():
    steps = 20
    arms = [f"R1S0@steps={j}:{j + 1}" for j in range(steps)]
    checked = planned(system(), arms, samples=1, steps=steps)
    lanes = sum(len(lanes_of_step(checked, i)) for i in range(steps))
    assert lanes == steps + steps * (steps + 1) // 2  # the clean lane once, and impulse j from step j on
    assert lanes <= 0.6 * steps * steps


def test_injection_null_and_decomposition_cost_one_lane_each_per_arm():
    def lanes(record, *arms):
        checked = planned(system(), ["R1S0", *arms], samples=1, steps=10, record=record)
        return [len(lanes_of_step(checked, i)) for i in range(10)]

    assert lanes(("norms",)) == [2] * 10
    assert lanes(("injected",)) == [2] + [3] * 9  # at the first step both states are the same one
    assert lanes(("null",)) == [2] + [4] * 9
    assert lanes(("decomposition",)) == [2] + [4] * 9
    assert lanes(("decomposition", "null")) == [2] + [5] * 9
    assert lanes(("decomposition", "null"), "full") == [3] + [6] * 9  # the floor arm is not decomposed


def test_noise_depends_on_the_sample_seed_and_the_step_alone():
    samples = planned(system(), "full", samples=4, steps=10).samples
    like = torch.empty(0)
    together = sample_noise(samples, 3, (1, 8, 8), like)
    assert torch.equal(together[2], sample_noise(samples[2:3], 3, (1, 8, 8), like)[0])
    assert not torch.equal(together, sample_noise(samples, 4, (1, 8, 8), like))
    assert abs(together.mean().item()) < 0.2
    assert abs(together.std().item() - 1) < 0.2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(samples=0), "at least 1"),
        (dict(guidance=float("nan")), "finite"),
        (dict(record=["everything"]), "choose one of"),
        (dict(record=["mass"]), "no attention"),
        (dict(classes=["heart"]), "not class-conditional"),
        (dict(prompts=["a heart"]), "class-conditional"),
    ],
)
def test_a_run_that_cannot_be_made_is_refused_before_anything_runs(settings, said):
    denoiser = system()
    with pytest.raises(PlanError, match=said):
        planned(denoiser, **{"samples": 1, "steps": 5, **settings})
    assert denoiser.calls == 0
