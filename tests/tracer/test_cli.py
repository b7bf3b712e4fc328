"""The command as its users meet it: what it prints, where it writes, what bad input gets."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import tracer
from tracer.cli.main import main

SMALL = ["--model", "dit", "--mask", "R2S8", "--steps", "4", "--device", "cpu"]


def trace(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, tracer.cli; print(sorted({'torch', 'numpy', 'xarray', 'zarr', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert "counterfactual" in trace("--help").output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "dit-R2S8"
    result = trace("run", *SMALL, "--samples", 3, "--batch-size", 2, "--out", path)
    assert result.exit_code == 0, result.output
    return path, result.output


def test_a_run_says_what_it_is_about_to_do(run):
    path, output = run
    assert "embedded dit" in output
    assert "clean + 2: R2S8, full" in output
    assert "3 samples x 4 ddpm steps" in output
    assert "at most" in output
    assert str(path) in output


def test_the_store_opens_without_our_code_and_names_everything(run):
    tree = xr.open_datatree(run[0] / "trace.zarr", engine="zarr")
    delta = tree["trajectory"]["delta"]
    assert delta.dims == ("arm", "sample", "step", "channel", "y", "x")
    assert tree["metrics"]["arm"].values.tolist() == ["clean", "R2S8", "full"]
    for name in ("timestep", "sigma", "log_snr"):
        assert tree["metrics"][name].dims == ("step",)
    for node in tree.subtree:
        for array in node.data_vars.values():
            assert {"long_name", "units"} <= array.attrs.keys(), array.name
    assert {"Conventions", "schema", "schema_version", "run_id", "config", "config_hash", "created_at",
            "provenance"} <= tree.attrs.keys()  # fmt: skip
    assert (tree["trajectory"]["delta"].sel(arm="clean").values == 0).all()
    made = tree.attrs["provenance"]
    made = json.loads(made) if isinstance(made, str) else made
    assert made["device"] == "cpu"
    assert made["tf32"] is False
    assert made["packages"]["torch"].startswith("2.")
    assert len(json.loads(tree.attrs["config"])["checkpoint"]["sha256"]) == 64


def test_growth_of_the_latest_run_prints_a_table_a_sentence_and_saves_figure_and_csv(run, monkeypatch):
    path, _ = run
    result = trace("analyze", "growth", path)
    assert result.exit_code == 0, result.output
    assert "R2S8" in result.output
    assert "does not show that the error compounds" in result.output
    assert (path / "growth.png").stat().st_size > 10_000
    assert (path / "growth.csv").read_text().startswith("arm")


def test_killed_in_mid_run_and_resumed_it_equals_an_undisturbed_run_bit_for_bit(run, tmp_path):
    undisturbed, killed = tracer.open_run(run[0]), tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "tracer.cli.main",
        "run",
        *SMALL,
        "--samples",
        "3",
        "--batch-size",
        "2",
        "--out",
        killed,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    flag = killed / "trace.zarr" / "status"
    deadline = time.time() + 300
    while time.time() < deadline and not list(flag.glob("c*")) and process.poll() is None:
        time.sleep(0.02)  # the first unit is committed, the second is running
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = xr.open_datatree(killed / "trace.zarr", engine="zarr")["status"].values
    assert (before != 1).any()
    assert trace("run", *SMALL, "--samples", 3, "--batch-size", 2, "--out", killed).exit_code == 2  # not without asking
    result = trace("run", *SMALL, "--samples", 3, "--batch-size", 2, "--out", killed, "--resume")
    assert result.exit_code == 0, result.output
    resumed = tracer.open_run(killed)
    for group in ("metrics", "trajectory", "images"):
        for name, array in undisturbed[group].data_vars.items():
            np.testing.assert_array_equal(resumed[group][name].values, array.values, err_msg=name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "--mask"),
        (["run", "--mask", "R4S3x"], "R4S32"),
        (["run", "--mask", "R99S0"], "grid"),
        (["run", "--mask", "sink-k999"], "256"),
        (["run", "--mask", "R4S32@layers=40"], "layers 0 to"),
        (["run", "--mask", "R4S32@steps=0:900"], "steps"),
        (["run", "--mask", "R4S32", "--model", "dino"], "dit, sd3, sdxl"),
        (["run", "--mask", "R4S32", "--sampler", "flow"], "--sampler ddpm"),
        (["run", "--mask", "R4S32", "--sampler", "euler"], "ddpm, ddim, flow"),
        (["run", "--mask", "R4S32", "--classes", "hart"], "heart"),
        (["analyze", "growth", "--at", "250"], "trace analyze verdict"),
        (["analyze", "sinks", "--null", "gaussian"], "--null belongs to `trace analyze verdict`"),
        (["run", "--mask", "R4S32", "--checkpoint", "./nowhere"], "no checkpoint folder"),
        (["run", "--mask", "R4S32", "--record", "everything"], "choose"),
        (["run", "--mask", "R4S32", "--prompts", "nowhere.txt"], "nowhere.txt"),
        (["run", "--mask", "R4S32", "--samples", "0"], "at least 1"),
        (["run", "--mask", "R4S32", "--device", "tpu"], "device"),
        (["run", "--mask", "D0.001A1"], "density"),
        (["analyze", "growth", "nowhere"], "nowhere"),
        (["analyze", "growth"], "trace run"),
        (["mask", "R4S32", "--grid", "16"], "16x16"),
        (["mask", "R4S32", "--grid", "2x3x4x5"], "5x8x8 with frames"),
        (["mask", "R20S0", "--grid", "5x8x8"], "on a 5x8x8 grid no two tokens are that far apart"),
        (["counterfactual", "guess", "--mask", "R4S32"], "impulse"),
        (["counterfactual", "steps", "--mask", "R4S32", "--counts", "a,b"], "50,100,250"),
    ],
)
def test_bad_input_gets_one_clear_message_exit_2_and_nothing_written(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = trace(*words)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_resume_with_another_configuration_is_refused_and_says_what_differs(run):
    result = trace("run", *SMALL, "--samples", 3, "--batch-size", 2, "--seed", 7, "--out", run[0], "--resume")
    assert result.exit_code == 2
    assert "seed" in result.output


def test_a_full_disk_is_found_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    result = trace("run", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_failure_while_running_exits_1_and_says_how_to_resume(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the network caught fire")

    monkeypatch.setattr("tracer.run.run_unit", broken)
    result = trace("run", *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "the network caught fire" in result.output
    assert "--resume" in result.output


def test_mask_prints_density_and_draws(tmp_path):
    result = trace("mask", "R4S32", "--grid", "16x16", "--out", tmp_path / "mask.png")
    assert result.exit_code == 0, result.output
    assert "25.7%" in result.output  # FACTS: R4S32 on 16 x 16
    assert (tmp_path / "mask.png").stat().st_size > 10_000


def test_a_mask_of_a_video_says_how_much_is_read_within_and_between_frames(tmp_path):
    # R1S0 on 2 x 1 x 2: each token reads itself, its neighbour and the same cell of the other frame
    result = trace("mask", "R1S0", "--grid", "2x1x2", "--json", "--out", tmp_path / "mask.png")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["grid"] == [2, 1, 2]
    assert (found["density_within_frames"], found["density_between_frames"]) == (1.0, 0.5)


def test_models_and_runs_are_listed(run):
    assert "facebook/DiT-XL-2-256" in trace("models").output
    assert "3/3" in trace("runs", "--root", run[0].parent).output
    (run[0].parent / "nothing").mkdir()
    assert "no runs under" in trace("runs", "--root", run[0].parent / "nothing").output
    (run[0].parent / "nothing").rmdir()
