"""What the writer promises every day: whole shards, the flag last, values by name, one worker a unit."""

import contextlib
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from tests.builders.runs_by_hand import (
    DELTA,
    LOOPED,
    SIZES,
    VARIABLES,
    create,
    fill,
    fill_step,
    flagged,
    lies,
    part,
    python,
    run_units,
    shards_of_unit,
    small_shards,
    truth,
    wait_until,
)  # fmt: skip
from tracer import store
from tracer.store import claims, writer


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty run, made once; each test works on its own copy."""
    return create(tmp_path_factory.mktemp("empty") / "run")


@pytest.fixture
def run(empty, tmp_path):
    return Path(shutil.copytree(empty, tmp_path / "run"))


# -- shards and units -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [False, True])
def test_every_shard_is_written_once_and_the_flag_last(run, monkeypatch, small):
    if small:
        small_shards(monkeypatch)
        run = create(run.with_name("small"))
    events, original = [], LocalStore.set

    async def counted(self, key, *rest):
        events.append(key)
        await original(self, key, *rest)

    monkeypatch.setattr(LocalStore, "set", counted)
    monkeypatch.setattr(writer, "sync_filesystem", lambda path: events.append("sync"))
    run_units(run, [2])
    assert sorted(events[:-3]) == sorted(shards_of_unit(store.Writer(run), 2))
    assert events[-3:] == ["sync", "status/c.0.2", "sync"]
    assert len({v.path for v in LOOPED}) < len(events)
    assert lies(run) == []


def test_the_last_unit_may_be_smaller(run):
    with store.Writer(run) as writing:
        assert [writing.samples(unit) for unit in writing.pending()] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    run_units(run, [2])
    assert flagged(run).tolist() == [4]
    assert lies(run) == []


def test_a_write_that_is_not_one_whole_shard_is_refused(run):
    array = zarr.open_array(run / "trace.zarr/trajectory/noise", mode="r")
    rest = tuple(slice(0, size) for size in array.shape[1:])
    with store.Writer(run) as writing:
        for samples in (slice(0, 1), slice(1, 3), slice(0, 4), slice(3, 5)):
            with pytest.raises(store.RunError, match="not one whole shard"):
                writing.submit("trajectory/noise", (samples, *rest), truth("trajectory/noise")[samples])
        writing.submit("trajectory/noise", (slice(4, 5), *rest), truth("trajectory/noise")[4:5])
    assert np.array_equal(array[4], truth("trajectory/noise")[4])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metrics/delta_l2", lambda x: x[:2], r"takes float32 \(3, 2\) here, not float32 \(2, 2\)"),
        ("trajectory/delta", lambda x: x[:, :1], r"\(3, 2, 1, 2, 3\)"),
        ("attention/sink_token", lambda x: x + 0.5, "takes int16"),
        ("metrics/delta", lambda x: x, "not a variable with steps"),
        ("images/image", lambda x: x, "not a variable with steps"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(run, name, change, message):
    known = name if name != "metrics/delta" else "metrics/delta_l2"
    value = part(known, slice(0, 2), 0 if known != "images/image" else None)
    with store.Writer(run) as writing, pytest.raises(store.RunError, match=message), writing.unit(0) as buffer:
        buffer.step(0, {name: change(value)})
    assert flagged(run).size == 0


def test_a_unit_in_which_something_was_left_out_is_not_flagged(run):
    with store.Writer(run) as writing:
        with pytest.raises(store.RunError, match="only 3 of 4 steps"), writing.unit(0) as buffer:
            fill(buffer, steps=3)
        with pytest.raises(store.RunError, match="nothing was given for images/image"), writing.unit(0) as buffer:  # noqa: PT012
            for step in range(4):
                fill_step(buffer, step)
            finals = [v.path for v in LOOPED if "step" not in v.dims and v.group != "images"]
            buffer.final({path: part(path, buffer.samples) for path in finals})
    assert flagged(run).size == 0


def test_values_are_taken_when_given_so_the_loop_may_reuse_its_arrays(run):
    with store.Writer(run) as writing, writing.unit(0) as buffer:
        scratch = {v.path: np.empty_like(part(v.path, buffer.samples, 0)) for v in LOOPED if "step" in v.dims}
        for step in range(4):
            for path, array in scratch.items():
                array[...] = part(path, buffer.samples, step)
            buffer.step(step, scratch)
        buffer.final({v.path: part(v.path, buffer.samples) for v in LOOPED if "step" not in v.dims})
    assert lies(run) == []


# -- many workers -----------------------------------------------------------------------------------------------------

WORKER = (
    "import sys; from tests.builders.runs_by_hand import *\n"
    "with store.Writer(sys.argv[1]) as w:\n"
    "    for u in range(w.units)[int(sys.argv[2])::2]:\n"
    "        with w.unit(u) as b: fill(b)\n"
)


def test_two_processes_on_their_own_units_write_one_whole_run(run):
    workers = [python("-c", WORKER, run, rank) for rank in (0, 1)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert len(flagged(run)) == SIZES["sample"]
    assert lies(run) == []


def test_a_unit_that_a_living_worker_holds_is_refused(run):
    with store.Writer(run) as first, store.Writer(run) as second, first.unit(0) as buffer:
        with pytest.raises(store.ClaimError, match=f"unit 0 .* process {os.getpid()}"), second.unit(0):
            pass
        with pytest.raises(store.RunError, match="is being written"):
            store.repair(run)
        fill(buffer)
    assert flagged(run).tolist() == [0, 1]


def test_only_one_of_many_gets_the_unit(run):
    # More takers than cores, all at once, over and over: one winner each time.
    for unit in range(3):
        winners, start = [], threading.Barrier(8)

        def take(unit=unit, winners=winners, start=start):
            start.wait()
            with contextlib.suppress(store.ClaimError):
                winners.append(claims.claim(run / "claims", unit, 60))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1


def test_the_unit_of_a_killed_worker_is_free_at_once(run):
    script = (
        "import sys, time, pathlib; from tracer.store import claims\n"
        "claims.claim(pathlib.Path(sys.argv[1]), 0, 1e9); print('held', flush=True); time.sleep(60)"
    )
    worker = python("-c", script, run / "claims")
    assert worker.stdout.readline() == "held\n"
    with pytest.raises(store.ClaimError):
        claims.claim(run / "claims", 0, 1e9)
    worker.kill()
    worker.wait()
    claims.claim(run / "claims", 0, 1e9)


def test_a_worker_that_lost_its_lease_does_not_flag(run):
    with store.Writer(run, lease=600) as first, store.Writer(run, lease=600) as second:
        with pytest.raises(store.ClaimError, match="taken over"), first.unit(0) as late:  # noqa: PT012
            fill(late)
            (run / "claims" / "000000.json").unlink()  # as if it had been stopped for an hour
            with second.unit(0) as buffer:
                assert flagged(run).size == 0
                fill(buffer)
            os.remove(run / "trace.zarr/status/c.0.0")  # so that only the late one could set it again
            (run / DELTA).unlink()
        assert flagged(run).size == 0
        assert not (run / DELTA).exists()  # nor does it write anything more


def test_a_living_worker_keeps_its_lease_however_long_a_step_takes(run):
    with store.Writer(run, lease=2) as first, first.unit(0) as buffer:
        claim = run / "claims" / "000000.json"
        beats = claim.stat().st_size
        wait_until(lambda: claim.stat().st_size > beats + 1)  # the loop does nothing meanwhile
        fill(buffer)
    assert flagged(run).tolist() == [0, 1]


def test_a_long_write_of_one_shard_does_not_stop_the_heartbeat(run, monkeypatch):
    claim, write, beats = run / "claims" / "000000.json", store.Writer._write, []

    def slow(self, *job):
        if not beats:
            beats.append(claim.stat().st_size)
            wait_until(lambda: claim.stat().st_size > beats[0] + 1)
        write(self, *job)

    monkeypatch.setattr(store.Writer, "_write", slow)
    with store.Writer(run, lease=2) as writing, writing.unit(0) as buffer:
        fill(buffer)
    assert flagged(run).tolist() == [0, 1]


def test_a_reader_during_a_run_sees_complete_units_only(run):
    with store.Writer(run) as writing:
        with writing.unit(0) as buffer:
            fill(buffer)
        with writing.unit(1) as buffer:
            for step in range(4):
                fill_step(buffer, step)
            buffer._flush(list(buffer._open))  # all shards with steps are on the disk, the flag is not
            writing._jobs.join()
            seen = store.open_run(run)["trajectory/delta"]
            assert np.isfinite(zarr.open_array(run / "trace.zarr/trajectory/delta", mode="r")[:, 2:4]).all()
            assert seen.isel(sample=slice(2, None)).isnull().all()
            np.testing.assert_array_equal(seen.values[:, :2], truth("trajectory/delta")[:, :2])
            plain = xr.open_datatree(run / "trace.zarr")
            assert plain["status"].values[0].tolist() == [1, 1, 0, 0, 0]
            buffer.final({v.path: part(v.path, buffer.samples) for v in LOOPED if "step" not in v.dims})
    assert lies(run) == []
    assert {v.path for v in VARIABLES} >= {v.path for v in LOOPED}
