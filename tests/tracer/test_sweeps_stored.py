"""The second schema of the store: a sweep, one cell a unit, with everything that protects a run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import tracer
from tests.builders import runs_by_hand
from tests.builders.sweeps_by_hand import (
    CONFIG,
    SIZES,
    SPECS,
    VARIABLES,
    create,
    fill,
    flagged,
    lies,
    run_units,
    truth,
)
from tracer import store
from tracer.store import writer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return runs_by_hand.empty_and_finished(tmp_path_factory.mktemp("prepared"), create, run_units)


@pytest.fixture
def sweep(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "empty", tmp_path / "sweep"))


@pytest.fixture
def finished(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "finished", tmp_path / "sweep"))


def files(path):
    root = path / "sweep.zarr"
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("c.*")}


def test_what_was_written_is_what_is_read_with_and_without_our_code(finished):
    ours, plain = tracer.open_sweep(finished), xr.open_zarr(finished / "sweep.zarr")
    for data in (ours, plain):
        for variable in VARIABLES:
            assert data[variable.path].dims == variable.dims
            assert data[variable.path].dtype == variable.dtype
            np.testing.assert_array_equal(data[variable.path].values, truth(variable.path))
        assert data["spec"].values.tolist() == SPECS
        assert data["sample"].values.tolist()[3] == "picture 3 ☃"
        assert data["label"].attrs["class_names"] == list("abcde")
        assert "cell" not in data.coords
    assert json.loads(plain.attrs["config"]) == CONFIG
    assert (plain.attrs["schema"], plain.attrs["schema_version"]) == ("denoise-trace-sweep", 2)
    assert plain.attrs["config_hash"] == store.config_hash(CONFIG)


def test_only_complete_cells_are_opened(sweep):
    run_units(sweep, [0, 3])
    data = store.open_sweep(sweep)
    assert data["spec"].values.tolist() == ["clean", "R1S2"]
    np.testing.assert_array_equal(data["loss"].values, truth("loss")[[0, 3]])


def kill_loop(path, kills, order, moment):
    words = [sys.executable, "-m", "tests.tracer.kill_loop", path, 1, kills, order, "sweep", moment]
    done = subprocess.run(list(map(str, words)), cwd=Path(__file__).parents[2], capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("moment", ["time", "writes"])
def test_killed_again_and_again_it_never_lies_and_ends_like_an_undisturbed_sweep(sweep, prepared, moment):
    outcome = kill_loop(sweep, 8, "protocol", moment)
    assert outcome["killed"] >= 2
    assert outcome["wrong"] == []
    run_units(sweep)
    assert store.finalize(sweep).whole  # takes away what a kill left half written beside the file it was to become
    assert not list(sweep.rglob("*.partial"))
    assert files(sweep) == files(prepared / "finished")


def test_the_kill_test_catches_a_writer_that_flags_first(sweep):
    assert kill_loop(sweep, 6, "flag-first", "writes")["wrong"] != []


def test_a_power_cut_after_the_data_and_before_the_flag_leaves_the_cell_missing(sweep, monkeypatch):
    def cut(path):
        raise OSError("power cut")

    failing = pytest.raises(store.WriteError, match=r"power cut.*--resume")
    with failing, store.Writer(sweep) as writing, writing.unit(1) as buffer:
        fill(buffer)
        monkeypatch.setattr(writer, "sync_filesystem", cut)
    assert flagged(sweep).size == 0


def test_a_cell_in_which_something_was_left_out_is_not_flagged(sweep):
    refused = pytest.raises(store.RunError, match="nothing was given for correct, loss")
    with store.Writer(sweep) as writing, refused, writing.unit(2) as buffer:
        buffer.final({name: truth(name)[2:3] for name in ("prediction", "mmd2")})
    assert flagged(sweep).size == 0


def test_a_cell_that_a_living_worker_holds_is_refused(sweep):
    with store.Writer(sweep) as first, store.Writer(sweep) as second, first.unit(4) as buffer:
        with pytest.raises(store.ClaimError, match=f"unit 4 .* process {os.getpid()}"), second.unit(4):
            pass
        with second.unit(5) as other:  # another cell is free
            fill(other)
        fill(buffer)
    assert flagged(sweep).tolist() == [4, 5]
    assert lies(sweep) == []


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_committed_cell_that_is_not_whole_is_noticed_left_out_and_made_again(finished, damage):
    shard = finished / "sweep.zarr/loss/c.2.0"
    whole = shard.read_bytes()
    shard.write_bytes(damage)
    with pytest.warns(UserWarning, match=r"unit 2 .* damaged"):
        assert store.open_sweep(finished).sizes["cell"] == 39
    report = store.repair(finished).after
    assert (report.missing, report.damaged) == ((2,), ())
    assert "39 of 40 cells complete" in str(report)
    assert flagged(finished).tolist() == [0, 1, *range(3, 40)]
    run_units(finished)
    assert shard.read_bytes() == whole
    assert lies(finished) == []


def test_beginning_a_cell_leaves_the_partial_files_of_other_cells_alone(sweep):
    # zarr names a partial file after all but the last index: for `mmd2` that is the cell, so nobody knows whose it is
    stale, other = sweep / "sweep.zarr/loss/c.1.0123.partial", sweep / "sweep.zarr/mmd2/c.0123.partial"
    for file in (stale, other, sweep / "claims/000001.json"):
        file.write_bytes(b"old")
    run_units(sweep, [1])
    assert (stale.exists(), other.exists()) == (False, True)
    store.finalize(sweep)
    assert not other.exists()


def test_another_configuration_is_refused_and_the_difference_named(finished):
    store.check_resume(finished, dict(reversed(CONFIG.items())), store.SWEEP)
    with pytest.raises(store.RunError, match=r"model: 'vit' -> 'vit-cls'; source.sha256: 'ab' -> 'cd'"):
        store.check_resume(finished, {**CONFIG, "model": "vit-cls", "source": {"sha256": "cd"}}, store.SWEEP)


def test_sweeps_and_runs_are_listed_and_opened_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(store.RunError, match=r"no sweep under runs/; make one with `trace sweep classify"):
        store.open_sweep()
    create(Path("runs/b"), created_at="2026-01-02T00:00:00")
    create(Path("runs/a"), created_at="2026-01-03T00:00:00")
    runs_by_hand.create(Path("runs/c"), created_at="2026-01-01T00:00:00")
    run_units(Path("runs/b"), [0, 1])
    assert [(s.name, s.task, s.model, s.complete, s.cells) for s in store.list_sweeps()] == [
        ("b", "classify", "vit", 2, 40), ("a", "classify", "vit", 0, 40),
    ]  # fmt: skip
    assert [run.name for run in store.list_runs()] == ["c"]
    assert (store.latest_sweep(), store.latest_run()) == (Path("runs/a"), Path("runs/c"))
    assert store.open_sweep().sizes["cell"] == 0
    with pytest.raises(store.RunError, match="runs/a is a sweep, not a run"):
        store.open_run("runs/a")
    with pytest.raises(store.RunError, match="runs/c is a run, not a sweep"):
        store.open_sweep("runs/c")
    with pytest.raises(store.RunError, match=r"runs is not a sweep \(it holds no sweep.zarr of ours\)"):
        store.open_sweep("runs")


def test_a_sweep_of_version_1_opens_and_is_not_continued(tmp_path):
    # As version 1 wrote it: plain arrays, no claims, no manifest; here by xarray alone.
    status = xr.DataArray(np.array([1, 0], np.int8), dims="cell")
    data = xr.Dataset({"status": status, "loss": ("cell", np.array([0.5, np.nan], np.float32))})
    data = data.assign_coords(spec=("cell", np.array(["clean", "R1S0"], object)))
    config = json.dumps(CONFIG)
    data.attrs = {"schema": "denoise-trace-sweep", "schema_version": 1, "config": config, "created_at": "2025"}
    data.attrs["config_hash"] = store.config_hash(CONFIG)
    data.to_zarr(tmp_path / "old" / "sweep.zarr", zarr_format=3, consolidated=True)
    opened = store.open_sweep(tmp_path / "old")
    assert (opened["spec"].values.tolist(), opened["loss"].values.tolist()) == (["clean"], [0.5])
    for refused in (
        lambda: store.check_resume(tmp_path / "old", CONFIG, store.SWEEP),
        lambda: store.Writer(tmp_path / "old"),
        lambda: store.repair(tmp_path / "old"),
    ):
        with pytest.raises(store.RunError, match=r"older version \(schema 1\): it can be read, not continued"):
            refused()
    assert zarr.open_group(tmp_path / "old/sweep.zarr")["status"][:].tolist() == [1, 0]


def test_creation_needs_the_specs_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(store.RunError, match="coords needs `spec`"):
        store.create(tmp_path / "s", VARIABLES, SIZES, {}, {"config": CONFIG}, 1, schema=store.SWEEP)
    assert list(tmp_path.iterdir()) == []
