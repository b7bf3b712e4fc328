"""What metrics are refused, and how: weights that are missing or wrong, runs that do not fit, the list of metrics."""

import json

import numpy as np
import pytest
import xarray as xr

import analysis
from classify_clip import METRICS, ScoreError, score
from classify_clip.scores import weights
from interventions.errors import RunError
from tests.builders.pictures import picture_run


@pytest.mark.parametrize(
    ("metric", "message"), [("lpisp", "did you mean lpips"), ("clip-t", "not made from prompts"), ("judge", "32 x 32")]
)
def test_metric_that_cannot_be_had_is_explained(metric, message):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ScoreError, match=message):
        score(picture_run({"clean": images, "R4S0": images}), [metric])


def test_metrics_that_do_not_fit_are_left_out_and_named():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    ds = analysis.quality(score(picture_run({"clean": images, "R4S0": images}, prompts=list("abcd"))))
    assert ds["metric"].values.tolist() == ["pixels"]
    assert "32 x 32" in analysis.quality.sentence(ds)


@pytest.mark.parametrize("metric", [name for name in METRICS.built_in if METRICS[name].source])
def test_missing_weights_are_one_error_naming_file_and_option(metric, tmp_path, monkeypatch):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    run = picture_run({"clean": images, "R4S0": images}, prompts=list("abcd"))
    with pytest.raises(ScoreError, match=f"`--weights {metric}=PATH`"):
        score(run, [metric], {metric: tmp_path / "nowhere"})

    def unreachable(source):
        raise ConnectionError("no network")

    monkeypatch.setattr(weights, "_from_hub", unreachable)
    monkeypatch.setattr(weights, "_from_url", unreachable)
    with pytest.raises(ScoreError, match=f"cannot be fetched.*`--weights {metric}=PATH` takes") as error:
        score(run, [metric])
    source = METRICS[metric].source
    assert source.file in str(error.value)
    assert (source.repository or source.url) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("metric", "other"), [("hps", "hps-v2"), ("hps-v2", "hps")])
def test_the_two_versions_of_hps_are_one_network_and_refuse_each_others_weights(metric, other, tmp_path, monkeypatch):
    from classify_clip.scores import hps

    images, loaded = np.zeros((2, 8, 8, 3), np.uint8), []
    run = picture_run({"clean": images}, prompts=["a", "b"])
    wrong, right = (tmp_path / METRICS[name].source.file for name in (other, metric))
    for file in (wrong, right):
        file.touch()
    with pytest.raises(ScoreError, match=rf"holds the weights of {other}: type `--metric {other} --weights {other}="):
        score(run, metric, {metric: wrong})

    def load(*args):
        loaded.append(args)
        return "network"

    monkeypatch.setattr(hps, "load_clip", load)
    monkeypatch.setattr(hps, "cosines", lambda clip, pictures: lambda images: np.ones(len(images)))
    assert score(run, metric, {metric: tmp_path})[f"scores/{metric}"].attrs["weights"] == right.name
    assert loaded == [("ViT-H-14", METRICS[metric].source, right, None)]


def test_the_list_of_metrics_says_what_is_here_without_asking_the_network(tmp_path, monkeypatch):
    import torch
    from click.testing import CliRunner

    from tracer.cli.main import main

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "_from_hub", lambda source: pytest.fail("asked"))
    monkeypatch.setattr(weights, "_from_url", lambda source: pytest.fail("asked"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    rows = json.loads(CliRunner().invoke(main, ["score", "--list", "--json"]).stdout)
    assert list(rows) == list(METRICS)
    assert (rows["lpips"]["here"], rows["fid"]["here"], rows["mmd"]["here"]) == (True, False, True)
    assert rows["imagereward"]["weights"] == "ImageReward.pt and vocab.txt"
    assert all(row["megabytes"] > 50 for row in rows.values() if row["weights"])
    shown = CliRunner().invoke(main, ["score", "--list"]).stdout
    assert "hps-v2       HPS v2: HPS_v2_compressed.pt, 1972 MB, not here" in shown
    assert "alexnet-owt-7be5be79.pth, 244 MB, on this machine" in shown


def test_a_device_that_is_none_is_refused_before_any_picture_is_read():
    from tracer.denoisers import DeviceError

    with pytest.raises(DeviceError, match="no device 'gpu'"):
        score(xr.DataTree(), "lpips", device="gpu")


def test_broken_weight_file_is_explained(tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    broken = tmp_path / "alexnet-owt-7be5be79.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(ScoreError, match="does not load"):
        score(picture_run({"clean": images, "R4S0": images}), ["lpips"], {"lpips": broken})


def test_run_without_pictures_or_without_a_complete_sample_is_explained():
    run = picture_run({"clean": np.zeros((4, 8, 8, 3), np.uint8)})
    run["status"].values[:] = 0
    with pytest.raises(RunError, match="no sample of this run is complete"):
        score(run)
    del run["images"]
    with pytest.raises(ScoreError, match="--record norms,images"):
        score(run)
