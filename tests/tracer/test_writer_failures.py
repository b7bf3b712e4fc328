"""What the writer promises when things go wrong: a flagged sample holds the truth, whatever happened."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from tests.builders.runs_by_hand import LOOPED, SIZES, VARIABLES, create, fill, flagged, lies, part, run_units, truth
from tracer import store
from tracer.store import claims, cut, shards, writer


def python(*arguments: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def shard_files(path: Path) -> dict[str, bytes]:
    """Every shard file of the looped variables, by key."""
    root = path / "trace.zarr"
    files = [file for v in LOOPED for file in (root / v.path).iterdir() if file.name.startswith("c.")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


DELTA = "trace.zarr/trajectory/delta/c.0.0.0.0.0.0"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """An empty and a finished run, made once; each test works on its own copy."""
    root = tmp_path_factory.mktemp("prepared")
    shutil.copytree(create(root / "empty"), root / "finished")
    run_units(root / "finished")
    return root


@pytest.fixture
def run(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "empty", tmp_path / "run"))


@pytest.fixture
def finished(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "finished", tmp_path / "run"))


# -- killed and resumed -----------------------------------------------------------------------------------------------


def test_killed_again_and_again_it_never_lies_and_ends_like_an_undisturbed_run(run, prepared):
    done = python("-m", "tests.tracer.kill_loop", run, 1, 8, "protocol", "run")
    outcome = json.loads(done.communicate(timeout=300)[0])
    assert outcome["killed"] >= 2
    assert outcome["wrong"] == []
    run_units(run)
    assert shard_files(run) == shard_files(prepared / "finished")
    assert len(flagged(run)) == SIZES["sample"]
    store.finalize(run)
    assert not list(run.rglob("*.partial"))


def test_the_kill_test_catches_a_writer_that_flags_first(run):
    done = python("-m", "tests.tracer.kill_loop", run, 1, 6, "flag-first", "run")
    assert json.loads(done.communicate(timeout=300)[0])["wrong"] != []


@pytest.mark.parametrize("how", ["protocol", "no sync before the flag"])
def test_power_loss_between_any_two_writes(tmp_path, monkeypatch, how):
    """Model of a cruel disk: what was synced stays; of all that came later flags are kept and other files are empty."""
    disk, images, last_key, synced = tmp_path / "disk", [], [""], {}
    original = LocalStore.set

    def files(place):
        return {str(file.relative_to(place)): file for file in place.rglob("*") if file.is_file()}

    def sync(place):
        if how == "protocol" or last_key[0].startswith("status"):
            shutil.rmtree(disk, ignore_errors=True)
            shutil.copytree(run, disk)
            synced.clear()
            synced.update({name: file.stat().st_ino for name, file in files(run).items()})

    async def set_and_lose_power(self, key, value, *rest):
        await original(self, key, value, *rest)
        last_key[0] = key
        image = tmp_path / f"image-{len(images)}"
        shutil.copytree(disk, image)
        for name, file in files(run).items():
            if synced.get(name) != file.stat().st_ino and "/c." in name:
                (image / name).parent.mkdir(parents=True, exist_ok=True)
                (image / name).write_bytes(file.read_bytes() if "status" in name else b"")
        images.append(image)

    run = create(tmp_path / "run", "trajectory")
    last_key[0] = "status"  # creation ended with a sync
    sync(run)
    for module in (writer, shards):
        monkeypatch.setattr(module, "sync_filesystem", sync)
    monkeypatch.setattr(LocalStore, "set", set_and_lose_power)
    run_units(run, [0])
    (run / DELTA).write_bytes(b"")  # so that a flagged unit is made again
    run_units(run, [0, 2])
    flags = [image for image in images if flagged(image).size]
    assert len(flags) >= 3
    assert any(lies(image) for image in flags) == (how != "protocol")


def test_a_terminated_run_flags_nothing_it_did_not_finish(run):
    script = (
        "import signal, sys, time; from pathlib import Path; from tests.builders.runs_by_hand import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs start with it ignored
        "with store.Writer(sys.argv[1]) as w:\n"
        "    with w.unit(0) as b: fill(b)\n"
        "    with w.unit(1) as b:\n"
        "        fill(b); print('filled', flush=True); time.sleep(60)\n"
    )
    for sign in (signal.SIGTERM, signal.SIGINT):
        child = python("-c", script, run, stderr=subprocess.DEVNULL)
        assert child.stdout.readline() == "filled\n"
        child.send_signal(sign)
        assert child.wait(300) != 0
        assert flagged(run).tolist() == [0, 1]
        assert lies(run) == []


def test_an_interrupt_in_the_loop_abandons_the_unit_and_gives_it_back(run):
    with store.Writer(run) as writing:
        with pytest.raises(KeyboardInterrupt), writing.unit(1) as buffer:  # noqa: PT012
            fill(buffer)
            raise KeyboardInterrupt
        assert flagged(run).size == 0
        assert list((run / "claims").glob("*.json")) == []
        with writing.unit(1) as buffer:  # the same writer goes on
            fill(buffer)
    assert flagged(run).tolist() == [2, 3]
    assert lies(run) == []


# -- damaged files ----------------------------------------------------------------------------------------------------


def test_shards_left_by_a_killed_attempt_are_gone_before_the_unit_is_made_again(run):
    stale = run / "trace.zarr/attention/removed_token/c.0.0.0.0.0.0"  # of a variable the next attempt leaves out
    stray = stale.with_name("c.0.0.0.0.0.0123abcd.partial")
    other = stale.with_name("c.0.1.0.0.0.0123abcd.partial")  # of another unit, perhaps of a living worker
    for file in (stale, stray, other):
        file.write_bytes(b"old")
    with store.Writer(run) as writing, writing.unit(0) as buffer:
        for step in range(4):
            paths = [v.path for v in LOOPED if "step" in v.dims and not v.optional]
            buffer.step(step, {path: part(path, buffer.samples, step) for path in paths})
        buffer.final({v.path: part(v.path, buffer.samples) for v in LOOPED if "step" not in v.dims})
    assert (store.open_run(run)["attention/removed_token"] == -1).all()
    assert (stale.exists(), stray.exists(), other.exists()) == (False, False, True)
    store.finalize(run)
    assert not other.exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "gone"])
def test_a_committed_shard_that_is_not_whole_is_noticed_masked_and_made_again(finished, damage):
    whole = (finished / DELTA).read_bytes()
    if damage == "gone":
        (finished / DELTA).unlink()
    else:
        (finished / DELTA).write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="unit 0 .* damaged"):
        opened = store.open_run(finished)
    assert opened["status"].values[0].tolist() == [0, 0, 1, 1, 1]
    assert opened["metrics/delta_l2"].isel(sample=[0, 1]).isnull().all()
    with store.Writer(finished) as writing:
        assert writing.pending() == [0]
    report = store.finalize(finished)
    assert (report.missing, list(report.damaged), report.whole) == ((0, 1), [0], False)
    assert "trajectory/delta/c.0.0" in str(report)
    assert "--resume" in str(report)
    assert flagged(finished).tolist() == [2, 3, 4]
    run_units(finished)
    assert lies(finished) == []
    assert store.finalize(finished).whole
    assert (finished / DELTA).read_bytes() == whole


def test_an_empty_shard_reads_as_silent_nan_which_is_why_sizes_are_kept(finished):
    # zarr's own behaviour, pinned: if this fails, a newer zarr raises, and the size check has become a luxury.
    (finished / DELTA).write_bytes(b"")
    assert np.isnan(zarr.open_array(finished / "trace.zarr/trajectory/delta", mode="r")[0, 0]).all()


def test_a_flipped_byte_raises_and_finalize_takes_the_flag(finished):
    data = bytearray((finished / DELTA).read_bytes())
    data[len(data) // 3] ^= 1
    (finished / DELTA).write_bytes(data)
    with pytest.raises(ValueError, match=r"checksum|Checksum"):
        store.open_run(finished)["trajectory/delta"].values  # noqa: B018
    report = store.finalize(finished)
    assert list(report.damaged) == [0]
    assert store.open_run(finished)["trajectory/delta"].isel(sample=[0, 1]).isnull().all()


def test_what_lies_in_a_unit_that_is_not_complete_is_not_even_read(finished):
    (finished / DELTA).write_bytes(b"garbage of some writer")
    (finished / "trace.zarr/status/c.0.0").unlink()
    delta = store.open_run(finished)["trajectory/delta"].values
    assert np.isnan(delta[:, :2]).all()
    np.testing.assert_array_equal(delta[:, 2:], truth("trajectory/delta")[:, 2:])


@pytest.mark.parametrize("content", [b"", b"\1\1\1", b"\1\1\1\1\1\1abcd"])
def test_an_unreadable_status_chunk_means_missing(finished, content):
    (finished / "trace.zarr/status/c.0.1").write_bytes(content)
    assert store.open_run(finished)["status"].values[1].tolist() == [1, 1, 0, 0, 1]
    with store.Writer(finished) as writing:
        assert writing.pending() == [1]
    run_units(finished)
    assert lies(finished) == []
    assert len(flagged(finished)) == SIZES["sample"]


# -- the disk fills up, the writer fails ------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """After so many more shards, the disk is full."""
    room, original = {"shards": 10**9}, LocalStore.set

    async def set_if_room(self, key, value, *rest):
        room["shards"] -= 1
        if room["shards"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)
        await original(self, key, value, *rest)

    monkeypatch.setattr(LocalStore, "set", set_if_room)
    return room


@pytest.mark.parametrize("room", [0, 1, 7])
def test_a_disk_that_fills_up_stops_the_run_loudly_and_what_is_complete_stays(run, full_disk, room):
    run_units(run, [0])
    full_disk["shards"] = room
    with pytest.raises(store.WriteError, match=r"No space left.*--resume") as caught:
        run_units(run)
    assert isinstance(caught.value.__cause__, OSError)
    assert flagged(run).tolist() == [0, 1]
    assert lies(run) == []
    full_disk["shards"] = 10**9
    run_units(run)
    assert lies(run) == []
    assert len(flagged(run)) == SIZES["sample"]


def test_a_disk_that_fills_up_at_the_flag_flags_nothing(run, full_disk):
    writing = store.Writer(run)
    full_disk["shards"] = len(list(shards_of_unit(writing, 0)))
    with pytest.raises(store.WriteError, match="No space left"):
        run_units(run, [0])
    assert flagged(run).size == 0


@pytest.mark.parametrize("step", ["write_json", "sync_filesystem"])
def test_any_step_of_a_commit_that_the_disk_refuses_flags_nothing(run, monkeypatch, step):
    def refuse(*_):
        raise OSError(errno.EIO, "input/output error")

    refused = pytest.raises(store.WriteError, match=r"input/output.*--resume")
    with refused, store.Writer(run) as writing, writing.unit(0) as buffer:
        fill(buffer)
        monkeypatch.setattr(writer, step, refuse)
    assert flagged(run).size == 0


def test_a_disk_that_refuses_from_the_start_is_told_like_any_other(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(writer, "write_json", refuse)
    with pytest.raises(store.WriteError, match="no space"), store.Writer(run):
        pass


def shards_of_unit(writing: store.Writer, unit: int) -> list[str]:
    arrays = writing._arrays.values()
    return [key for array in arrays for key, _ in shards.shards_of(array, "sample", writing.samples(unit))]


def wait_until(done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_an_error_of_the_writer_thread_reaches_the_loop_before_the_unit_ends(run, monkeypatch):
    small_shards(monkeypatch)
    run = create(run.with_name("small"), "trajectory")
    monkeypatch.setattr(store.Writer, "_write", lambda *job: 1 / 0)
    seen = []
    failing = pytest.raises(store.WriteError, match="division by zero")
    with failing, store.Writer(run) as writing, writing.unit(0) as buffer:
        for step in range(4):
            path = "trajectory/latent"
            buffer.step(step, {path: part(path, buffer.samples, step)})
            seen.append(step)
            if step == 1:  # the shard of step 0 is now with the writer
                wait_until(lambda: writing._error is not None)
    assert seen == [0, 1]
    assert flagged(run).size == 0


def test_a_loop_that_outruns_the_disk_waits_for_it(run, monkeypatch):
    """With the disk at a standstill the loop stops within the queue's length; memory cannot grow further."""
    small_shards(monkeypatch)
    run = create(run.with_name("small"))
    gate, accepted = threading.Event(), []
    write = store.Writer._write
    monkeypatch.setattr(store.Writer, "_write", lambda self, *job: (gate.wait(120), write(self, *job)))
    submit = store.Writer.submit
    monkeypatch.setattr(store.Writer, "submit", lambda self, *job: (submit(self, *job), accepted.append(job[0])))
    loop = threading.Thread(target=run_units, args=(run, [0]))
    loop.start()
    bound = writer._QUEUED_SHARDS + 1  # one more in the hands of the writer
    wait_until(lambda: len(accepted) == bound)
    time.sleep(0.5)
    assert len(accepted) == bound
    gate.set()
    loop.join(300)
    assert len(accepted) > 4 * bound
    assert lies(run) == []
    assert flagged(run).tolist() == [0, 1]


def small_shards(monkeypatch):
    """One arm and one step in a shard, so that shards are written while the unit goes on."""
    monkeypatch.setattr(cut, "_SHARD_BYTES", 1)
    monkeypatch.setattr(cut, "_JOINT_ARMS_BYTES", 1)


def fill_step(buffer, step):
    buffer.step(step, {v.path: part(v.path, buffer.samples, step) for v in LOOPED if "step" in v.dims})


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
            store.finalize(run)
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
            os.utime(run / "claims" / "000000.json", (0, 0))  # as if it had been stopped for an hour
            with second.unit(0) as buffer:
                assert flagged(run).size == 0
                fill(buffer)
            os.remove(run / "trace.zarr/status/c.0.0")  # so that only the late one could set it again
            (run / DELTA).unlink()
        assert flagged(run).size == 0
        assert not (run / DELTA).exists()  # nor does it write anything more


def test_a_living_worker_keeps_its_lease_however_long_a_step_takes(run):
    with store.Writer(run, lease=8) as first, first.unit(0) as buffer:
        claim = run / "claims" / "000000.json"
        nearly_over = time.time() - 6
        os.utime(claim, (nearly_over, nearly_over))
        wait_until(lambda: claim.stat().st_mtime > nearly_over + 1)  # the loop does nothing meanwhile
        with pytest.raises(store.ClaimError):
            claims.claim(run / "claims", 0, 8)
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
