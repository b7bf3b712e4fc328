"""`trace verify`, `trace repair`, and what `trace run` does with a run in which something is wrong."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import damage
from tests.builders import sweeps_by_hand
from tracer import store
from tracer.cli.main import main

WORDS = shlex.split("run --mask R2S4 --no-floor --samples 2 --steps 2 --batch-size 1 --record norms --out runs/x")


def trace(*words):
    return CliRunner().invoke(main, list(words))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        assert trace(*WORDS).exit_code == 0
        return Path.cwd() / "runs/x"


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, "runs/x"))


def flip(run):
    shard = next(iter(sorted((run / "trace.zarr/metrics/delta_l2").glob("c.*"))))
    damage.flipped(shard, shard)


def test_a_good_run_is_one_line_and_exit_0(run):
    shown = trace("verify", "runs/x")
    assert shown.exit_code == 0
    assert shown.output.startswith("runs/x: 2 of 2 samples complete, all ")
    assert shown.output.count("\n") == 1


def test_runs_and_sweeps_together_and_exit_1_if_one_is_damaged(run):
    sweep = sweeps_by_hand.create(Path("runs/sweep"))
    sweeps_by_hand.run_units(sweep, range(40))
    assert trace("verify", "runs/x", "runs/sweep").exit_code == 0
    flip(run)
    shown = trace("verify", "runs/sweep", "runs/x")
    assert shown.exit_code == 1
    assert "runs/sweep: 40 of 40 cells complete" in shown.output
    assert "unit 0 (samples 0-0), metrics/delta_l2: metrics/delta_l2/c.0.0.0 has other contents" in shown.output
    assert "trace repair runs/x" in shown.output
    assert trace("verify", "nothing").exit_code == 2


def test_the_command_that_repair_prints_completes_the_run(run):
    before = store.open_run(run)["metrics"].to_dataset().load()
    flip(run)
    shown = trace("repair", "runs/x")
    assert shown.exit_code == 1
    line = shown.output.rpartition("compute what is missing with:")[2].strip()
    assert line.startswith("trace run --model dit --mask R2S4 --no-floor --samples 2")
    assert trace(*shlex.split(line)[1:]).exit_code == 0
    assert trace("verify", "runs/x").exit_code == 0
    after = store.open_run(run)["metrics"].to_dataset()
    np.testing.assert_array_equal(after["delta_l2"].values, before["delta_l2"].values)


def test_a_run_that_finds_damage_says_so_and_computes_it_again_in_the_same_call(run):
    flip(run)
    shown = trace(*WORDS, "--resume")
    assert shown.exit_code == 0
    assert "metrics/delta_l2/c.0.0.0 has other contents than when it was written" in shown.output
    assert list((run / "damaged").rglob("delta_l2/c.0.0.0"))
    assert store.verify(run).whole


def test_a_resume_that_finds_its_lists_lost_makes_them_again_and_computes_nothing(run, monkeypatch):
    from tracer import run as running

    shutil.rmtree(run / "units")
    monkeypatch.setattr(running, "run_unit", lambda *_: pytest.fail("computed again"))
    assert trace(*WORDS, "--resume").exit_code == 0
    assert store.verify(run).whole


def test_samples_that_stay_missing_are_exit_1(run, monkeypatch):
    from tracer import run as running

    (run / "trace.zarr/status/c.0.1").unlink()
    (run / "units/000001.json").unlink()
    monkeypatch.setattr(running, "_execute", lambda *_: None)
    shown = trace(*WORDS, "--resume")
    assert shown.exit_code == 1
    assert "missing samples: 1" in shown.output
    assert "--resume" in shown.output
