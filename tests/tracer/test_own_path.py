"""The own-path sums through the real tracer: an independent loop, the martingale, and what each lane costs."""

import numpy as np
import pytest

import tracer
from tests.builders.analytic import Analytic, exact
from tests.ground_truth import constructed
from tests.oracles.three_paths import norm
from tests.tracer.test_replay import by_hand
from tracer.lanes import lanes_of_step
from tracer.plan import plan
from tracer.request import Request

BIMODAL = constructed.two_peaks()
SYSTEMS = {system.name: system for system in constructed.EXACT_SYSTEMS}


def run_of(folder, denoiser, arms="R1S0", **settings):
    settings = {"record": "own", "floor": False, "sampler": "ddpm"} | settings
    return tracer.open_run(tracer.trace(denoiser, arms, out=folder / "run", **settings))


@pytest.mark.parametrize("arm", ["R1S0", "R1S0@steps=5:6", "R1S0@steps=3:15", "R1S0@pause=4:16", "R1S0@steps=19:20"])
def test_sums_and_their_parts_are_those_of_an_independent_loop(tmp_path, arm):
    window = {
        "R1S0": None, "R1S0@steps=5:6": [5], "R1S0@steps=3:15": range(3, 15),
        "R1S0@pause=4:16": [*range(4), *range(16, 20)], "R1S0@steps=19:20": [19],
    }[arm]  # fmt: skip
    masked = constructed.pushed(BIMODAL, times=1.2, shift=0.1)
    denoiser = Analytic(BIMODAL, masked, fraction=0.4, masked_fraction=0.6)
    run = run_of(tmp_path, denoiser, arm, samples=3, batch_size=2, steps=20)
    paths = by_hand(run, "ddpm", BIMODAL, masked, window, (0.4, 0.6))
    metrics, sums = run["metrics"].sel(arm=arm), run["decomposition"].sel(arm=arm)
    close = dict(rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(metrics.null_l2.values.T, norm(paths.null), **close)
    np.testing.assert_allclose(metrics.own_l2.values.T, norm(paths.own), **close)
    np.testing.assert_allclose(metrics.own_injected_l2.values.T, norm(paths.own_injected), **close)
    np.testing.assert_allclose(sums.null_sum.values, paths.null.sum(0), **close)
    np.testing.assert_allclose(sums.own_sum.values, paths.own.sum(0), **close)
    np.testing.assert_allclose(sums.replay_own_sum.values, paths.replay_own.sum(0), **close)


@pytest.mark.parametrize("push", [dict(shift=0.1), dict(times=1.2, shift=0.1)], ids=["additive", "feedback"])
def test_the_mean_error_is_the_mean_own_path_sum_for_both_paths(tmp_path, push):
    """E[delta - N*] = 0 at every error size, within three standard errors, while the single errors scatter widely.

    A pixel stands for a sample: all are drawn alike and independently. Under feedback the null N misses the mean.
    """
    denoiser = Analytic(BIMODAL, constructed.pushed(BIMODAL, **push))
    run = run_of(tmp_path, denoiser, samples=32, paths=2, batch_size=32, steps=150).sel(arm="R1S0")
    null = run["decomposition"].null_sum.values.ravel()
    for final, total in (("final_delta", "own_sum"), ("final_replay", "replay_own_sum")):
        error, own = run["trajectory"][final].values.ravel(), run["decomposition"][total].values.ravel()
        rest = error - own
        assert abs(in_standard_errors(rest)) < 3
        assert error.mean() > 20 * rest.std() / np.sqrt(rest.size)  # there is a mean error to explain
        assert rest.std() > 0.3 * error.std()  # and scatter about it
        assert (abs(in_standard_errors(error - null)) > 5) == ("times" in push)


def in_standard_errors(values):
    """The mean of values, in its standard errors."""
    return values.mean() / (values.std() / np.sqrt(values.size))


def test_without_noise_in_the_pictures_the_own_path_sum_is_the_error(tmp_path):
    """Gaussian data: an error ends where its mean ends."""
    run = run_of(tmp_path, exact(SYSTEMS["Gaussian, 2 bump"]), samples=2, steps=25).sel(arm="R1S0")
    for final, total in (("final_delta", "own_sum"), ("final_replay", "replay_own_sum")):
        error, own = run["trajectory"][final].values, run["decomposition"][total].values
        assert norm(error - own).max() < 0.02 * norm(error).max()


def test_the_floor_is_not_asked_and_an_arm_that_never_departs_adds_nothing(tmp_path):
    run = run_of(tmp_path, exact(SYSTEMS["Gaussian, shift"]), ("R1S0@strength=0", "full"), samples=1, steps=5)
    for name in ("own_sum", "replay_own_sum"):
        total = run["decomposition"][name]
        assert total.sel(arm="full").isnull().all()
        assert (total.sel(arm=["clean", "R1S0@strength=0"]) == 0).all()
    assert run["metrics"].own_l2.sel(arm="full").isnull().all()


def test_what_the_sums_share_with_the_decomposition_is_evaluated_once():
    def lanes(record):
        checked = plan(
            Request(exact(SYSTEMS["Gaussian, shift"]), "R1S0", samples=1, steps=6, record=record, floor=False)
        )
        return [len(lanes_of_step(checked, i)) for i in range(6)]

    assert lanes("own") == lanes("own,decomposition") == [2, 5, 7, 8, 8, 8]
    assert lanes("verdict") == lanes("own")
