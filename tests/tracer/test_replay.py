"""The replay through the real tracer: closed forms, an independent float64 loop, and what it costs."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tests.oracles.three_paths import norm, three_paths
from tests.plugins import installed
from tracer.cli.announce import announcement
from tracer.lanes import lanes_of_step
from tracer.noise import sample_noise
from tracer.plan import plan
from tracer.price import price
from tracer.request import Request

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)
EXACT = 1e-10
SAMPLERS = ("ddpm", "ddim", "flow")
clean = gaussian.gaussian_denoiser(LAM)
bimodal = gaussian.bimodal_denoiser(1.0, 0.1)
SHIFT = 0.3 * np.random.default_rng(1).standard_normal((1, 8, 8))


@pytest.fixture(scope="module", autouse=True)
def plugins():
    with installed(tracer.SAMPLERS):
        yield


def system(sampler, masked, exact=clean):
    denoiser = Analytic(exact, masked, prediction="flow" if sampler == "flow" else "epsilon")
    if sampler == "ddpm":
        denoiser.fraction, denoiser.masked_fraction = 0.4, 0.6
    return denoiser


def run_of(folder, sampler, masked, arms=("R1S0",), record="replay,finals", exact=clean, **settings):
    settings = {"samples": 3, "batch_size": 2, "steps": 30, "floor": False} | settings
    path = tracer.trace(
        system(sampler, masked, exact), arms, sampler=sampler, record=record, out=folder / "run", **settings
    )
    return tracer.open_run(path)


def feedback(run, arm):
    """S per sample, at every step and at the end."""
    metrics, finals = run["metrics"].sel(arm=arm), run["trajectory"].sel(arm=arm)
    size = [np.linalg.norm(finals[name].values.reshape(len(run["sample"]), -1), axis=1) for name in FINALS]
    return (metrics.delta_l2 / metrics.replay_l2).values, size[0] / size[1]


FINALS = ("final_delta", "final_replay")


@pytest.mark.parametrize("exact", [clean, bimodal], ids=["gaussian", "bimodal"])
@pytest.mark.parametrize("sampler", [*SAMPLERS, "dpmpp-2m"])
def test_a_mask_that_shifts_the_prediction_has_no_feedback(tmp_path, sampler, exact):
    """Also in a sampler that remembers masked predictions, and whatever the network's curvature."""
    run = run_of(tmp_path, sampler, lambda x, *level: exact(x, *level) + SHIFT, exact=exact, record="replay,finals")
    each, whole = feedback(run, "R1S0")
    np.testing.assert_allclose(each, 1, rtol=EXACT)
    np.testing.assert_allclose(whole, 1, rtol=EXACT)
    difference = run["trajectory"].final_delta - run["trajectory"].final_replay
    assert abs(difference).max() < EXACT


def test_a_shift_has_no_feedback_in_a_sampler_of_two_evaluations(tmp_path):
    run = run_of(tmp_path, "heun", lambda x, *level: clean(x, *level) + SHIFT)
    np.testing.assert_allclose(feedback(run, "R1S0")[1], 1, rtol=EXACT)


def by_hand(run, sampler, exact, masked, window=None, fractions=(0.0, 0.0)):
    """`three_paths` of a run, from the run's own levels and noise."""
    coords = run["metrics"].ds.coords
    levels = [coords[name].values for name in ("alpha", "sigma", "alpha_after", "sigma_after")]
    schedule = gaussian.Schedule(sampler, coords["timestep"].values, *levels)
    identities = zip(run["seed"].values, run["path"].values, strict=True)
    samples = [tracer.Sample(i, int(seed), path=int(path)) for i, (seed, path) in enumerate(identities)]
    like = torch.empty(0, dtype=torch.float64)
    start, *noise = (sample_noise(samples, k, (1, 8, 8), like).numpy() for k in range(-1, schedule.steps))
    return three_paths(schedule, exact, masked, start, noise, window, fractions)


@pytest.mark.parametrize("arm", ["R1S0", "R1S0@steps=5:6", "R1S0@steps=3:20", "R1S0@pause=4:25"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_replay_is_that_of_an_independent_loop(tmp_path, sampler, arm):
    window = {"R1S0": None, "R1S0@steps=5:6": [5], "R1S0@steps=3:20": range(3, 20)}.get(
        arm, [*range(4), *range(25, 30)]
    )

    def masked(x, alpha, sigma):
        return 1.2 * bimodal(x, alpha, sigma) + SHIFT

    run = run_of(tmp_path, sampler, masked, arm, exact=bimodal, record="replay,latents,finals")
    paths = by_hand(run, sampler, bimodal, masked, window, (0.4, 0.6) if sampler == "ddpm" else (0.0, 0.0))
    x, y, w = paths.x, paths.y, paths.w
    got = run["metrics"].replay_l2.sel(arm=arm).values.T
    np.testing.assert_allclose(got, norm(w - x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(run["trajectory"].final_replay.sel(arm=arm), (w - x)[-1], atol=1e-10)
    np.testing.assert_allclose(run["trajectory"].final_delta.sel(arm=arm), (y - x)[-1], atol=1e-10)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_a_linear_system_the_impulses_add_up_to_the_replay(tmp_path, sampler):
    steps = 30
    arms = ["R1S0", *(f"R1S0@steps={j}:{j + 1}" for j in range(steps))]
    run = run_of(tmp_path, sampler, lambda x, *level: 1.1 * clean(x, *level) + SHIFT, arms)
    finals = run["trajectory"].final_delta
    impulses = finals.isel(arm=slice(2, None)).sum("arm")
    whole = run["trajectory"].final_replay.sel(arm="R1S0")
    assert abs(impulses - whole).max() < EXACT * abs(whole).max()
    assert abs(whole - finals.sel(arm="R1S0")).max() > 0.01 * abs(whole).max()  # and feedback is something else
    each = run["trajectory"].final_replay.isel(arm=slice(2, None))
    assert (each == finals.isel(arm=slice(2, None))).all()  # an impulse meets no error of its own


def test_amplification_is_feedback_times_what_the_clean_network_makes_of_the_injections(tmp_path):
    run = run_of(tmp_path, "ddpm", lambda x, *level: 1.1 * clean(x, *level) + SHIFT, record="replay,null,finals")
    delta, replay = (run["trajectory"][name].sel(arm="R1S0").values for name in FINALS)
    null = norm(run["decomposition"].null_sum.sel(arm="R1S0").values)
    s, r, a = norm(delta) / norm(replay), norm(replay) / null, norm(delta) / null
    np.testing.assert_allclose(s * r, a, rtol=EXACT)
    np.testing.assert_allclose(feedback(run, "R1S0")[1], s, rtol=EXACT)
    assert (s > 1.01).all()


def test_the_replay_costs_a_lane_where_it_is_not_the_masked_path_itself_and_nothing_for_impulses():
    def lanes(record, *arms, **settings):
        request = Request(system("ddpm", clean), arms, samples=1, steps=8, record=record, floor=False, **settings)
        return [len(lanes_of_step(plan(request), i)) for i in range(8)]

    assert lanes("injected", "R1S0") == [2] + [3] * 7
    assert lanes("replay", "R1S0") == [2] + [4] * 7
    assert lanes("replay", "R1S0", "full") == [3] + [5] * 7
    assert lanes("replay,decomposition", "R1S0") == [2, 4] + [5] * 6  # F(w) is F(y) in the second step
    assert lanes("replay", "R1S0@steps=2:3") == lanes("injected", "R1S0@steps=2:3") == [1, 1, 2, 2, 2, 2, 2, 2]
    assert lanes("null", "R1S0") == [2] + [4] * 7
    assert lanes("own", "R1S0") == [2, 5, 7] + [8] * 5


def test_every_evaluation_of_a_replay_is_counted(tmp_path):
    for sampler in (*SAMPLERS, "heun", "dpmpp-2m"):
        counted = plan(Request(system(sampler, clean), "R1S0", samples=2, steps=9, sampler=sampler, record="replay"))
        tracer.trace(counted.denoiser, "R1S0", samples=2, steps=9, sampler=sampler, record="replay",
                     out=tmp_path / sampler)  # fmt: skip
        assert counted.denoiser.calls == counted.evaluations()


def test_the_floor_has_no_replay_and_pictures_of_replays_stand_beside_those_of_arms(tmp_path):
    arms = ("R1S0", "full")
    run = run_of(tmp_path, "ddpm", lambda x, *level: 1.2 * clean(x, *level) + SHIFT, arms, record="replay,images")
    assert run["metrics"].replay_l2.sel(arm="full").isnull().all()
    assert run["trajectory"].final_replay.sel(arm="full").isnull().all()
    assert (run["metrics"].replay_l2.sel(arm="clean") == 0).all()
    pictures = run["images"]
    assert (pictures.replay.sel(arm="clean") == pictures.image.sel(arm="clean")).all()
    assert (pictures.replay.sel(arm="R1S0") != pictures.image.sel(arm="R1S0")).any()


def test_the_price_says_what_the_replay_adds_and_the_announcement_names_it():
    """9 steps: 3 evaluations at each with the floor; the replay adds two but at the first."""
    planned = plan(Request(system("ddpm", clean), "R1S0", samples=1, steps=9))
    cost = price(planned)
    added = {part.records: part for part in cost.parts}
    assert added["replay",].evaluations == pytest.approx(16 / 9)
    assert cost.evaluations == 9 * 3 + 16
    assert added["latents",].evaluations == 0 < added["latents",].bytes
    (line,) = [line for line in announcement(planned, Path("runs/x"), cost) if line.startswith("records")]
    assert "replay" in line
    without = plan(Request(system("ddpm", clean), "R1S0", samples=1, steps=9, record="norms"))
    assert price(without).parts == ()
