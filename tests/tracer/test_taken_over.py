"""A worker that is stopped, loses its unit and wakes again: whatever the moment, it flags nothing it no longer owns.

The moments are made by hooks, not by clocks: worker A is held at a line, worker B takes its unit over, clears it and
dies, A goes on.
"""

import asyncio
import shutil
import threading
from pathlib import Path

import pytest
from zarr.storage import LocalStore

from tests.builders import runs_by_hand
from tests.builders.runs_by_hand import create, fill, flagged, lies, run_units
from tracer import store
from tracer.store import claims, writer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return runs_by_hand.empty_and_finished(tmp_path_factory.mktemp("prepared"), create, run_units)


@pytest.fixture
def run(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "empty", tmp_path / "run"))


def take_over_and_die(run):
    """What another worker does that finds the claim of unit 0 dead: claim, clear, and then it is killed."""
    with claims.locked(run / "claims"):
        (run / "claims/000000.json").unlink()
    other = store.Writer(run)
    claims.claim(run / "claims", 0, 60)
    writer.clear_unit(run, other._arrays.values(), 0, other.samples(0))
    (run / "claims/000000.json").unlink()  # its process is gone


def test_a_worker_stopped_before_its_flag_keeps_others_out_until_the_flag_is_written(run, monkeypatch):
    """Stopped with the flag in hand: whoever takes over must not clear the unit between A's check and A's flag."""
    at_flag, go_on, original = threading.Event(), threading.Event(), LocalStore.set

    async def held(self, key, *rest):
        if key.startswith("status"):
            at_flag.set()
            await asyncio.to_thread(go_on.wait, 60)
        await original(self, key, *rest)

    monkeypatch.setattr(LocalStore, "set", held)
    first = threading.Thread(target=run_units, args=(run, [0]))
    first.start()
    assert at_flag.wait(60)
    second = threading.Thread(target=take_over_and_die, args=(run,))
    second.start()
    second.join(1)  # without the lock it is done by now
    go_on.set()
    first.join(60)
    second.join(60)
    assert lies(run) == []
    assert store.Writer(run).pending() == [0, 1, 2]


@pytest.mark.parametrize("sync", [1, 2])
def test_a_worker_that_lost_its_unit_at_any_sync_writes_no_flag_and_says_so(run, monkeypatch, sync):
    syncs, original = [], writer.sync_filesystem

    def stopped(place):
        original(place)
        syncs.append(place)
        if len(syncs) == sync:
            take_over_and_die(run)

    monkeypatch.setattr(writer, "sync_filesystem", stopped)
    with store.Writer(run) as writing:
        if sync == 1:
            with pytest.raises(store.ClaimError, match="taken over"), writing.unit(0) as buffer:
                fill(buffer)
        else:  # after the flag: the unit was whole, and the other worker has cleared it
            with writing.unit(0) as buffer:
                fill(buffer)
        with writing.unit(1) as buffer:  # the same worker goes on
            fill(buffer)
    assert lies(run) == []
    assert flagged(run).tolist() == [2, 3]


def test_a_worker_that_lost_its_unit_does_not_overwrite_the_seals_of_the_next(run, monkeypatch):
    """A is stopped before it writes its seals; B makes the whole unit; A must leave B's work as it is."""
    original, sealed = store.Writer._seals, []

    def stopped(self, samples):
        seals = original(self, samples)
        if not sealed:
            sealed.append(seals)
            with claims.locked(run / "claims"):
                (run / "claims/000000.json").unlink()
            run_units(run, [0])
            sealed.append((run / "units/000000.json").read_bytes())
        return seals

    monkeypatch.setattr(store.Writer, "_seals", stopped)
    with pytest.raises(store.ClaimError, match="taken over"):
        run_units(run, [0])
    assert (run / "units/000000.json").read_bytes() == sealed[1]
    assert flagged(run).tolist() == [0, 1]
    assert lies(run) == []
    assert store.verify(run).findings == ()
