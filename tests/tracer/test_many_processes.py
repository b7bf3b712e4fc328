"""Any number of plain processes on one run, told nothing but where it is: none refuses, none loses a value."""

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr

from benchmarks import many_processes
from classify_clip import sweep
from tests.builders import runs_by_hand, sweeps_by_hand
from tests.builders.runs_by_hand import python
from tracer import run, store
from tracer.plan import plan
from tracer.store import claims, sharing

# A program of its own, since a fork needs a process in which zarr has not started its threads.
SIMULATED = (
    "import json, pathlib, sys; from benchmarks.many_processes import *\n"
    "setting = Setting(**json.loads(sys.argv[1]))\n"
    "print(json.dumps(vars(simulate(setting, pathlib.Path(sys.argv[2])))))"
)


def simulated(folder, **setting):
    done = python("-c", SIMULATED, json.dumps(setting), folder, stderr=subprocess.DEVNULL)
    return json.loads(done.communicate(timeout=300)[0].splitlines()[-1])


def test_eight_processes_with_kills_a_stall_and_clocks_hours_apart_make_one_whole_and_right_run(tmp_path):
    outcome = simulated(
        tmp_path, processes=8, machines=4, samples=40, steps=8, batch_size=1, kills=5, stalls=1, lease=3.0
    )
    assert outcome["statuses"] == {"0": 8}
    assert (outcome["whole"], outcome["wrong"]) == (True, [])
    assert outcome["launches"] <= 8 + 5  # one a process, however many units
    assert list((tmp_path / "shared" / "claims").glob("*.json")) == []


@pytest.fixture
def setting():
    return many_processes.Setting(samples=3, steps=4)


def prepared(setting, path):
    checked = plan(many_processes.requested(setting, path))
    return checked, run.prepare(checked)


def test_a_unit_that_is_held_is_come_back_to_at_the_end_and_its_holder_named(setting, tmp_path, caplog, monkeypatch):
    checked, path = prepared(setting, tmp_path / "run")
    token, seen = claims.claim(path / "claims", 0), []

    def sleep(seconds):
        seen.append(runs_by_hand.flagged(path).tolist())
        claims.release(path / "claims", 0, token)

    monkeypatch.setattr(sharing, "sleep", sleep)
    told = []
    run.execute(checked, path, progress=lambda *at: told.append(at))
    assert seen == [[1, 2]]
    assert runs_by_hand.flagged(path).tolist() == [0, 1, 2]
    assert caplog.text.count("waiting for unit 0, held by another worker: process") == 1
    assert told[-1] == (12, 12)


def test_what_another_process_completes_meanwhile_is_not_made_again(setting, tmp_path):
    checked, path = prepared(setting, tmp_path / "run")
    launched = len(list((path / "launches").iterdir()))
    done = []

    def other(finished, _):
        """At the first step of unit 0 another process makes unit 1."""
        if not done:
            done.append(finished)
            with store.Writer(path) as writer, writer.unit(1, again=False) as buffer:
                run.run_unit(checked, checked.samples[1:2], buffer, lambda i: None)
            done.append((path / "trace.zarr/status/c.0.1").stat().st_mtime_ns)

    run.execute(checked, path, progress=other)
    assert (path / "trace.zarr/status/c.0.1").stat().st_mtime_ns == done[1]
    assert runs_by_hand.flagged(path).tolist() == [0, 1, 2]
    assert len(list((path / "launches").iterdir())) == launched + 1


def test_a_unit_that_was_completed_between_the_look_and_the_claim_is_left_alone(tmp_path):
    path = runs_by_hand.create(tmp_path / "run")
    runs_by_hand.run_units(path, [0])
    with store.Writer(path) as writer:
        with pytest.raises(store.CompleteError), writer.unit(0, again=False):
            pytest.fail("it was given")
        assert writer.pending() == [1, 2]
    assert runs_by_hand.lies(path) == []
    assert not list((path / "claims").glob("*.json"))


def test_a_sweep_is_shared_in_the_same_way(tmp_path, caplog, monkeypatch):
    path = sweeps_by_hand.create(tmp_path / "sweep")
    sweeps_by_hand.run_units(path, list(range(3, 40)))
    token = claims.claim(path / "claims", 0)
    monkeypatch.setattr(sharing, "sleep", lambda seconds: claims.release(path / "claims", 0, token))
    made = []

    def compute(cell, tick):
        made.append(cell)
        return {v.path: sweeps_by_hand.truth(v.path)[cell] for v in sweeps_by_hand.VARIABLES}

    sweep.run_cells(path, list(range(40)), 10, compute, None)
    assert made == [1, 2, 0]
    assert sweeps_by_hand.lies(path) == []
    assert "waiting for unit 0" in caplog.text


def test_the_dead_claim_of_another_machine_is_waited_for_a_lease_and_then_removed(tmp_path, monkeypatch):
    path = runs_by_hand.create(tmp_path / "run")
    claims.claim(path / "claims", 1)
    file = path / "claims" / "000001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": "another"}))
    now = [0.0]
    monkeypatch.setattr(claims, "monotonic", lambda: now[0])
    monkeypatch.setattr(sharing, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    store.settle(path, lease=60)
    assert 60 <= now[0] < 70
    assert not file.exists()


def test_of_those_that_end_together_one_verifies(setting, tmp_path):
    checked, path = prepared(setting, tmp_path / "run")
    with store.alone(path) as first:
        assert first
        assert run.complete(checked, path) is None
    assert run.complete(checked, path).whole


# -- many at the start ------------------------------------------------------------------------------------------------


def at_once(count, work):
    """What so many threads give that do the same at the same moment; creating a run is nearly all waiting for files."""
    gate = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return [each.result() for each in [pool.submit(lambda: (gate.wait(), work())[1]) for _ in range(count)]]


def test_four_that_start_at_once_without_a_name_get_a_run_each(setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked = plan(replace(many_processes.requested(setting, None), resume=False))
    paths = [path for count in (4, 2) for path in at_once(count, lambda: run.prepare(checked))]
    assert len(set(paths)) == 6
    assert sorted(paths) == sorted(Path("runs").iterdir())  # nothing is left of those who were too late
    assert len(store.list_runs()) == 6


def test_of_four_that_start_at_once_with_one_name_and_resume_one_creates_and_the_others_join(setting, tmp_path):
    for n in range(2):
        checked = plan(many_processes.requested(setting, tmp_path / f"run-{n}"))
        assert at_once(4, lambda checked=checked: run.prepare(checked)) == [tmp_path / f"run-{n}"] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"run-{n}" for n in range(2)]


def test_sweeps_start_at_once_in_the_same_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coords = xr.Dataset(coords={"spec": ("cell", ["clean", "R1S0"])})
    outcomes = {"loss": (("cell",), "float32", {"long_name": "cross-entropy"})}
    paths = at_once(4, lambda: sweep.prepare(None, "sweep", False, coords, outcomes, {"task": "x"}))
    assert len(set(paths)) == 4
    assert at_once(4, lambda: sweep.prepare("one", "", True, coords, outcomes, {"task": "x"})) == [Path("one")] * 4


def test_without_resume_a_name_that_another_took_meanwhile_is_refused(setting, tmp_path, monkeypatch):
    checked = plan(replace(many_processes.requested(setting, tmp_path / "run"), resume=False))
    build = store.create

    def quicker(path, *rest, **named):
        build(path, *rest, **named)
        build(path, *rest, **named)

    monkeypatch.setattr(run.store, "create", quicker)
    with pytest.raises(store.TakenError, match="--resume"):
        run.prepare(checked)
