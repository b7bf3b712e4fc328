"""A lane that turns NaN or infinite: its sample is flagged failed under its arm, the rest goes on, and it is said."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import analysis
import tracer
from tests.builders.diverging import diverging
from tracer import store
from tracer.cli.main import main
from tracer.request import Request

ARMS = ["R1S0", "R2S0@steps=0:2"]
SETTINGS = {"samples": 6, "steps": 8, "batch_size": 3, "floor": False, "sampler": "ddpm"}
RECORD = ("norms", "latents", "replay", "decomposition", "null")
PLACES, STEP = (0, 2), 4


def traced(denoiser, out, **settings):
    return tracer.trace(denoiser, ARMS, record=RECORD, out=out, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The same run with nothing in its way."""
    return tracer.open_run(traced(diverging(np.nan, step=99, places=PLACES), tmp_path_factory.mktemp("calm") / "run"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_only_the_samples_that_blew_up_fail_and_only_under_their_arm(tmp_path, calm, value):
    denoiser = diverging(value, step=STEP, places=PLACES)
    with pytest.warns(UserWarning, match="4 of 6 samples of .* diverged"):
        run = tracer.open_run(traced(denoiser, tmp_path / "run"))
    failed = np.isin(np.arange(6) % 3, PLACES)
    # the second arm acts in steps 0 and 1 only, and its own lanes are clean from then on
    assert run["status"].values.tolist() == [[1] * 6, np.where(failed, 2, 1).tolist(), [1] * 6]
    assert run["metrics/failed_step"].values.tolist() == [[-1] * 6, np.where(failed, STEP, -1).tolist(), [-1] * 6]
    for node in calm.subtree:
        for name, was in node.to_dataset(inherit=False).data_vars.items():
            if "sample" not in was.dims or name in ("status", "failed_step"):
                continue
            now = run[node.path][name]
            good = now.isel(arm=1, sample=~failed) if "arm" in was.dims else now
            expected = was.isel(arm=1, sample=~failed) if "arm" in was.dims else was
            np.testing.assert_array_equal(good.values, expected.values, err_msg=name)
            if "arm" in was.dims:
                np.testing.assert_array_equal(now.isel(arm=[0, 2]).values, was.isel(arm=[0, 2]).values, err_msg=name)
                assert now.isel(arm=1, sample=failed).isnull().all()


@pytest.mark.filterwarnings("ignore:4 of 6 samples")
def test_failed_samples_are_final(tmp_path):
    path = traced(diverging(np.nan, step=STEP, places=PLACES), tmp_path / "run")
    again = diverging(np.nan, step=STEP, places=PLACES)
    traced(again, path, resume=True)
    assert again.calls == 0
    with store.Writer(path) as writer:
        assert writer.pending() == []


@pytest.mark.filterwarnings("ignore:4 of 6 samples")
def test_analyses_read_it_from_the_store(tmp_path):
    run = tracer.open_run(traced(diverging(np.nan, step=STEP, places=PLACES), tmp_path / "run"))
    for measure in (analysis.growth, analysis.decompose, analysis.verdict):
        result = measure(run)
        assert "4 of 6 samples diverged (R1S0 from step 4)" in measure.sentence(result)
    assert int(analysis.verdict(run).sel(cell="R1S0")["diverged"]) == 4
    assert analysis.growth(run).attrs["samples"] == 2


@pytest.mark.filterwarnings("ignore:2 of 6 samples")
def test_a_clean_path_that_blows_up_takes_every_arm_of_its_sample_along(tmp_path):
    run = tracer.open_run(traced(diverging(np.inf, step=STEP, places=[1], lane="clean"), tmp_path / "run"))
    failed = np.arange(6) % 3 == 1
    assert (run["status"].values == np.where(failed, 2, 1)).all()
    assert (run["metrics/failed_step"].values == np.where(failed, STEP, -1)).all()


def command(monkeypatch, denoiser, *words):
    monkeypatch.setattr(Request, "load", lambda self: denoiser)
    typed = ["--mask", "R1S0", "--no-floor", "--steps", "8", "--batch-size", "3"]
    return CliRunner().invoke(main, [*words, *typed])


def test_the_command_says_how_many_where_and_when_and_exits_with_1(tmp_path, monkeypatch):
    denoiser = diverging(np.nan, step=STEP, places=PLACES)
    result = command(
        monkeypatch, denoiser, "run", "--samples", "6", "--record", "norms", "--out", str(tmp_path / "run")
    )
    assert result.exit_code == 1, result.output
    assert "4 of 6 samples diverged (R1S0 from step 4)" in result.output
    assert "--resume does not run them again" in result.output
    assert "next: trace report" in result.output  # what is complete can be looked at


def test_a_study_runs_all_its_variants_first(tmp_path, monkeypatch):
    denoiser = diverging(np.nan, step=STEP, places=PLACES)
    words = ("counterfactual", "steps", "--counts", "8,10", "--samples", "3", "--out", str(tmp_path / "study"))
    result = command(monkeypatch, denoiser, *words)
    assert result.exit_code == 1, result.output
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["T0008", "T0010"]
    assert (tracer.open_run(tmp_path / "study/T0010")["status"] > 0).all()
    assert "T0008: 2 of 3 samples diverged (R1S0 from step 4)" in result.output


def test_float16_that_overflows_is_advised_to_use_another_dtype(tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from tracer.denoisers.checkpoints import EMBEDDED

    folder = shutil.copytree(EMBEDDED / "dit", tmp_path / "hot")
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["pos_embed.proj.weight"] = weights["pos_embed.proj.weight"].float() * 1e4
    save_file({name: value.float() for name, value in weights.items()}, file)
    words = ["run", "--checkpoint", str(folder), "--mask", "R2S4", "--samples", "2", "--steps", "2", "--no-floor"]
    words += ["--record", "norms", "--device", "cpu"]
    result = CliRunner().invoke(main, [*words, "--dtype", "float16", "--out", str(tmp_path / "run")])
    assert result.exit_code == 1, result.output
    assert "2 of 2 samples diverged (clean from step 1)" in result.output
    assert "--dtype bfloat16 or float32" in result.output
    assert CliRunner().invoke(main, [*words, "--out", str(tmp_path / "calm")]).exit_code == 0
    config = json.loads(tracer.open_run(tmp_path / "run").attrs["config"])
    assert config["dtype"] == "float16"


def test_nothing_is_copied_to_the_host_before_the_last_step(tmp_path, monkeypatch):
    """Whether a lane is finite stays on the device until the unit ends: one reduction a step, no further wait."""
    from tracer import trajectory

    seen = []

    def failed_steps(plan, finite):
        seen.append([(each.dtype, tuple(each.shape)) for each in finite])
        return np.full((len(plan.arms), 3), -1)

    monkeypatch.setattr(trajectory, "failed_steps", failed_steps)
    traced(diverging(np.nan, step=99, places=PLACES), tmp_path / "run", samples=3)
    (steps,) = seen
    assert len(steps) == 8
    assert all(dtype == torch.bool and shape[1] == 3 for dtype, shape in steps)
