"""Several noise paths from one start: which noise each takes, that nothing else touches it, and that it can go on."""

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer.noise import sample_noise
from tracer.plan import PlanError, plan
from tracer.request import Request
from tracer.run import execute, prepare
from tracer.store import finalize

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)
clean = gaussian.gaussian_denoiser(LAM)
bimodal = gaussian.bimodal_denoiser(1.0, 0.1)
LIKE = torch.empty(0, dtype=torch.float64)


def masked(x, alpha, sigma):
    return bimodal(x, alpha, sigma) + 0.1


def system():
    return Analytic(bimodal, masked)


def run_of(folder, arms=("R1S0",), **settings):
    settings = {"steps": 12, "samples": 2, "record": "own,latents", "floor": False} | settings
    return tracer.open_run(tracer.trace(system(), arms, out=folder, **settings))


def test_samples_are_starts_by_paths_and_share_what_belongs_to_the_start(tmp_path):
    run = run_of(tmp_path / "run", samples=2, paths=3)
    assert run["start"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert run["path"].values.tolist() == [0, 1, 2, 0, 1, 2]
    assert run["seed"].values.tolist() == [0, 0, 0, 1, 1, 1]
    noise, latent = run["trajectory"].noise.values, run["trajectory"].latent.values
    assert (noise[:3] == noise[0]).all()
    assert (noise[3:] == noise[3]).all()
    assert not np.array_equal(latent[0], latent[1])


def test_path_0_is_the_run_without_paths_bit_for_bit(tmp_path):
    one, several = run_of(tmp_path / "one"), run_of(tmp_path / "several", paths=3, batch_size=3)
    for group in ("metrics", "trajectory", "decomposition"):
        for name, array in one[group].data_vars.items():
            other = several[group][name].isel(sample=several["path"].values == 0)
            np.testing.assert_array_equal(array.values, other.values, err_msg=name)


def test_the_numbers_of_a_path_depend_on_no_batch_no_arm_and_no_other_path(tmp_path):
    few = run_of(tmp_path / "few", paths=2, batch_size=1)
    many = run_of(tmp_path / "many", ("R2S0", "R1S0"), samples=3, paths=5, batch_size=7)
    chosen = many.isel(sample=((many["path"] < 2) & (many["start"] < 2)).values).sel(arm="R1S0")
    for group in ("metrics", "trajectory", "decomposition"):
        for name, array in few.sel(arm="R1S0")[group].data_vars.items():
            np.testing.assert_array_equal(array.values, chosen[group][name].values, err_msg=name)


def test_a_unit_holds_whole_starts_where_it_can():
    def unit(paths, batch):
        return plan(Request(system(), "R1S0", samples=4, steps=5, paths=paths, batch_size=batch)).unit

    assert [unit(1, 8), unit(3, 8), unit(8, 8), unit(5, 8)] == [8, 6, 8, 5]
    assert unit(20, 8) == 8  # a start that fits into no batch is cut, and memory stays what was asked for


def test_forked_paths_share_their_noise_until_the_fork():
    samples = plan(Request(system(), samples=1, steps=10, paths=4)).samples
    at = [sample_noise(samples, i, (1, 8, 8), LIKE, fork=5) for i in range(10)]
    assert all(torch.equal(at[i][0], at[i][p]) for i in range(5) for p in range(4))
    assert not any(torch.equal(at[i][p], at[i][q]) for i in range(5, 10) for p in range(4) for q in range(p))


def test_paths_are_independent_of_each_other_of_the_steps_and_of_other_seeds():
    samples = plan(Request(system(), samples=3, steps=10, paths=4)).samples
    drawn = torch.stack([sample_noise(samples, i, (1, 32, 32), LIKE) for i in range(4)]).reshape(48, -1).numpy()
    correlation = np.corrcoef(drawn) - np.eye(48)
    assert abs(correlation).max() < 5 / 32  # 1 / sqrt(1024) is its standard deviation


def test_a_run_with_paths_goes_on_after_it_was_broken_off(tmp_path):
    request = Request(
        system(), "R1S0", samples=3, paths=2, steps=8, batch_size=2, record="own", floor=False, out=tmp_path / "broken"
    )
    checked = plan(request)
    path = prepare(checked)

    class Killed(Exception):
        pass

    def stop(done, total):
        if done == 13:
            raise Killed

    with pytest.raises(Killed):
        execute(checked, path, progress=stop)
    half = tracer.open_run(path)
    assert (half["status"].values == 1).sum(1).tolist() == [2, 2]
    tracer.trace(system(), "R1S0", samples=3, paths=2, steps=8, batch_size=2, record="own", floor=False, out=path,
                 resume=True)  # fmt: skip
    finalize(path)
    whole = run_of(tmp_path / "whole", samples=3, paths=2, steps=8, batch_size=6, record="own")
    again = tracer.open_run(path)
    for name in ("own_sum", "replay_own_sum", "null_sum"):
        np.testing.assert_array_equal(again["decomposition"][name].values, whole["decomposition"][name].values)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(paths=0), "--paths 0"),
        (dict(paths=2, sampler="ddim"), "'ddim' draws no noise"),
        (dict(noise="pink"), "independent, coupled"),
        (dict(fork=6), "from 0 to 5"),
        (dict(record="own", sampler="ddim"), "--record own.*--sampler ddpm"),
        (dict(record="transport"), "'ddpm' draws some"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(PlanError, match=said):
        plan(Request(system(), "R1S0", **{"samples": 1, "steps": 5} | settings))


def test_what_is_new_is_stored_where_it_is_used_so_that_older_runs_can_go_on():
    plain = plan(Request(system(), samples=1, steps=5)).config
    assert not plain.keys() & {"paths", "noise", "fork"}
    config = plan(Request(system(), samples=1, steps=5, paths=4, noise="coupled", fork=2)).config
    assert [config[key] for key in ("paths", "noise", "fork")] == [4, "coupled", 2]
