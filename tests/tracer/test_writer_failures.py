"""What the writer promises when things go wrong: a flagged sample holds the truth, whatever happened."""

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from tests.builders import runs_by_hand
from tests.builders.runs_by_hand import (
    DELTA,
    LOOPED,
    SIZES,
    create,
    fill,
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
from tracer.store import launches, seals, shards, writer


def shard_files(path: Path) -> dict[str, bytes]:
    """Every shard file of the looped variables, by key."""
    root = path / "trace.zarr"
    files = [file for v in LOOPED for file in (root / v.path).iterdir() if file.name.startswith("c.")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """An empty and a finished run, made once; each test works on its own copy."""
    return runs_by_hand.empty_and_finished(tmp_path_factory.mktemp("prepared"), create, run_units)


@pytest.fixture
def run(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "empty", tmp_path / "run"))


@pytest.fixture
def finished(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "finished", tmp_path / "run"))


# -- killed and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["time", "writes"])
def test_killed_again_and_again_it_never_lies_and_ends_like_an_undisturbed_run(run, prepared, moment):
    done = python("-m", "tests.tracer.kill_loop", run, 1, 8, "protocol", "run", moment)
    outcome = json.loads(done.communicate(timeout=300)[0])
    assert outcome["killed"] >= 2
    assert outcome["wrong"] == []
    run_units(run)
    assert len(flagged(run)) == SIZES["sample"]
    store.finalize(run)  # takes away what a kill left half written beside the file it was to become
    assert not list(run.rglob("*.partial"))
    assert shard_files(run) == shard_files(prepared / "finished")


def test_the_kill_test_catches_a_writer_that_flags_first(run):
    done = python("-m", "tests.tracer.kill_loop", run, 1, 6, "flag-first", "run", "writes")
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
        "import sys, time; from pathlib import Path; from tests.builders.runs_by_hand import *\n"
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
    for file in (stale, stray, other, run / "claims/000000.json"):
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
    report = store.verify(finished)
    assert (report.missing, report.damaged, report.whole) == ((0, 1), (0,), False)
    assert "unit 0 (samples 0-1), trajectory/delta: trajectory/delta/c.0.0" in str(report)
    assert store.repair(finished).moved == (0,)
    assert flagged(finished).tolist() == [2, 3, 4]
    run_units(finished)
    assert lies(finished) == []
    assert store.finalize(finished).whole
    assert (finished / DELTA).read_bytes() == whole


def test_an_empty_shard_reads_as_silent_nan_which_is_why_sizes_are_kept(finished):
    # zarr's own behaviour, pinned: if this fails, a newer zarr raises, and the size check has become a luxury.
    (finished / DELTA).write_bytes(b"")
    assert np.isnan(zarr.open_array(finished / "trace.zarr/trajectory/delta", mode="r")[0, 0]).all()


def test_a_flipped_byte_raises_and_repair_takes_the_flag(finished):
    data = bytearray((finished / DELTA).read_bytes())
    data[len(data) // 3] ^= 1
    (finished / DELTA).write_bytes(data)
    with pytest.raises(store.RunError, match=r"trajectory/delta/c.0.* other contents .*`trace verify"):
        store.open_run(finished)["trajectory/delta"].values  # noqa: B018
    assert store.repair(finished).moved == (0,)
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


@pytest.mark.parametrize("step", [(seals, "write_json"), (writer, "sync_filesystem")])
def test_any_step_of_a_commit_that_the_disk_refuses_flags_nothing(run, monkeypatch, step):
    def refuse(*_):
        raise OSError(errno.EIO, "input/output error")

    refused = pytest.raises(store.WriteError, match=r"input/output.*--resume")
    with refused, store.Writer(run) as writing, writing.unit(0) as buffer:
        fill(buffer)
        monkeypatch.setattr(*step, refuse)
    assert flagged(run).size == 0


def test_a_disk_that_refuses_from_the_start_is_told_like_any_other(run, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(launches, "write_json", refuse)
    with pytest.raises(store.WriteError, match="no space"), store.Writer(run):
        pass


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
