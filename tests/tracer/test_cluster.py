"""Runs on Dask workers against the same runs made in one process, also when a worker dies, raises, or is locked out."""

import functools
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from distributed import LocalCluster

from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer import cluster, run, store
from tracer.denoisers import CheckpointError
from tracer.plan import plan
from tracer.request import Request
from tracer.store import claims

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)
RECORD = ("norms", "latents", "decomposition", "images")


def masked(x, alpha, sigma, *, clean, once: Path | None = None, act=None):
    """The perturbed denoiser; the first process to make the file `once` does `act` instead."""
    if once is not None:
        try:
            once.touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            act()
    return 0.95 * clean(x, alpha, sigma) + 0.02


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def give_up():
    raise RuntimeError("the network is out of order")


def planned(address=None, **accident):
    clean = gaussian.gaussian_denoiser(LAM)
    denoiser = Analytic(clean, functools.partial(masked, clean=clean, **accident), fraction=0.4)
    return plan(Request(
        denoiser, "R1S0", samples=5, steps=6, batch_size=2, record=RECORD, floor=False, scheduler=address
    ))  # fmt: skip


def arrays(path):
    group = zarr.open_group(path / "trace.zarr", mode="r")
    return {name: array[:] for name, array in group.members(max_depth=None) if isinstance(array, zarr.Array)}


def assert_same(path, other):
    one, two = arrays(path), arrays(other)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name], equal_nan=one[name].dtype.kind == "f") for name in one)
    assert (one["status"] == store.STATUS_COMPLETE).all()


@pytest.fixture(scope="module")
def address():
    with LocalCluster(
        2, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as local:
        yield local.scheduler_address


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The run made in this process."""
    checked = planned()
    path = run.prepare(checked, tmp_path_factory.mktemp("serial") / "run")
    run.execute(checked, path)
    return path


def test_run_on_workers_equals_the_serial_run_bit_for_bit(tmp_path, address, serial):
    checked, told = planned(address), []
    path = run.prepare(checked, tmp_path / "run")
    cluster.execute_on_cluster(checked, path, progress=lambda *at: told.append(at))
    assert_same(path, serial)
    assert told[-1] == (3 * 6, 3 * 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_unit_of_a_killed_worker_is_taken_up_by_another(tmp_path, address, serial):
    checked = planned(address, once=tmp_path / "died", act=die)
    path = run.prepare(checked, tmp_path / "run")
    cluster.execute_on_cluster(checked, path)
    assert (tmp_path / "died").exists()
    assert_same(path, serial)


def test_error_in_a_unit_surfaces_and_the_run_resumes(tmp_path, address, serial):
    checked = planned(address, once=tmp_path / "raised", act=give_up)
    path = run.prepare(checked, tmp_path / "run")
    with pytest.raises(RuntimeError, match="out of order"):
        cluster.execute_on_cluster(checked, path)
    assert (arrays(path)["status"] == store.STATUS_MISSING).any()
    cluster.execute_on_cluster(checked, path)
    assert_same(path, serial)


def test_unit_that_somebody_else_holds_is_waited_for_at_the_end_and_its_holder_named(
    tmp_path, address, serial, monkeypatch, caplog
):
    checked = planned(address)
    path = run.prepare(checked, tmp_path / "run")
    token = claims.claim(path / "claims", 1, lease=120)  # this process lives, so its claim is honoured
    seen = []

    def wait(seconds):
        seen.append((arrays(path)["status"] == store.STATUS_COMPLETE).all(axis=0).tolist())
        claims.release(path / "claims", 1, token)

    monkeypatch.setattr(cluster.time, "sleep", wait)
    cluster.execute_on_cluster(checked, path)
    assert seen[0] == [True, True, False, False, True]  # everything else was done first
    assert f"waiting for unit 1, held by another worker: process {os.getpid()} on" in caplog.text
    assert_same(path, serial)


def test_every_worker_process_leaves_one_launch_record(tmp_path, address):
    checked = planned(address)
    path = run.prepare(checked, tmp_path / "run")
    cluster.execute_on_cluster(checked, path)
    assert 1 <= len(list((path / "launches").iterdir())) <= 2  # 2 workers, 3 units


@pytest.mark.parametrize(
    ("name", "number"), [("3", 3), ("SLURMCluster-12", 12), ("tcp://10.0.0.1:4711", None), ("node", None)]
)
def test_a_worker_has_the_number_of_its_name(name, number):
    assert cluster.number_of(name) == number


def test_worker_with_other_weights_is_refused(tmp_path, address):
    checked = planned(address)
    path = run.prepare(checked, tmp_path / "run")
    checked.denoiser.checkpoint = {"id": "another"}
    with pytest.raises(CheckpointError, match="other weights"):
        cluster.execute_on_cluster(checked, path)
    assert (arrays(path)["status"] == store.STATUS_MISSING).all()


def test_embedded_dit_on_a_local_worker_equals_the_serial_run(tmp_path):
    request = Request(
        "dit", "R4S0", samples=2, steps=2, batch_size=1, record="norms,latents", floor=False, device="cpu"
    )
    serial, spread = plan(request), plan(replace(request, workers=1))
    one, two = run.prepare(serial, tmp_path / "one"), run.prepare(spread, tmp_path / "two")
    run.execute(serial, one)
    cluster.execute_on_cluster(spread, two)
    for name in ("trajectory/latent", "trajectory/delta", "metrics/delta_rel"):
        got, want = arrays(two)[name], arrays(one)[name]
        # Thread counts may differ, so sums may be rounded differently.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert (arrays(two)["status"] == store.STATUS_COMPLETE).all()


@pytest.mark.parametrize(
    ("workers", "scheduler", "said"),
    [
        (0, None, "--workers 0"),
        (2, "tcp://127.0.0.1:1", "either --workers N or --scheduler"),
        (None, "tcp://127.0.0.1:1", "no Dask scheduler answers"),
    ],
)
def test_workers_that_cannot_be_had_are_refused_before_anything_is_written(workers, scheduler, said, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with pytest.raises(cluster.ClusterError, match=said):
        cluster.check(workers, scheduler)
