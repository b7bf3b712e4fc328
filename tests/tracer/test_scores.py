"""Scores beside a run: written whole, read back as groups of the run, refused where they belong elsewhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.builders.runs_by_hand import ARMS, create, run_units
from tracer import store
from tracer.store import scores

ATTRS = {
    "name": "lpips", "title": "LPIPS (AlexNet)", "kind": "distance", "higher_is_better": False, "distance": True,
    "weights": {"id": "alex", "sha256": "ab"},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = create(tmp_path_factory.mktemp("runs") / "dit-R1S0")
    run_units(path)
    return path


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def scored(arms=ARMS, samples=range(5)):
    values = np.arange(len(arms) * len(samples), dtype=np.float32).reshape(len(arms), len(samples))
    coords = {"arm": list(arms), "sample": list(samples)}
    return xr.Dataset({"score": (("arm", "sample"), values)}, coords, ATTRS)


def test_scores_are_read_as_a_group_that_knows_the_runs_coordinates(run):
    file = store.write_scores(run, "lpips", scored())
    assert file == run / "scores" / "lpips.nc"
    group = store.open_run(run)["scores/lpips"].to_dataset()
    assert group["score"].dtype == np.float32
    assert group["score"].values.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert group["arm"].values.tolist() == ARMS
    assert group["seed"].values.tolist() == [10, 11, 12, 13, 14]
    flags = group.attrs["higher_is_better"], group.attrs["distance"]
    assert (group.attrs["title"], *flags) == ("LPIPS (AlexNet)", False, True)
    assert group.attrs["weights"] == '{"id": "alex", "sha256": "ab"}'
    assert store.open_run(run).sel(arm="R1S0")["scores/lpips/score"].values.tolist() == [5, 6, 7, 8, 9]


def test_plain_xarray_and_scipy_read_a_file_of_features(run):
    features = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    coords = {"arm": ARMS, "sample": range(5)}
    file = store.write_scores(run, "clip", xr.Dataset({"features": (("arm", "sample", "feature"), features)}, coords))
    with xr.open_dataset(file, engine="scipy") as plain:
        np.testing.assert_array_equal(plain["features"].values, features)
        assert plain["arm"].values.tolist() == ARMS
        assert plain.attrs["name"] == "clip"


def test_arms_and_samples_left_out_are_missing_and_the_order_is_the_runs(run):
    store.write_scores(run, "lpips", scored(["R1S0", "clean"], [3, 1]))
    score = store.read_scores(run)["lpips"]["score"].values
    assert np.isnan(score[2]).all()
    assert np.isnan(score[:, [0, 2, 4]]).all()
    assert score[:2, [1, 3]].tolist() == [[3, 2], [1, 0]]


def test_scoring_again_replaces_and_a_write_that_fails_leaves_the_old_scores(run, monkeypatch):
    store.write_scores(run, "lpips", scored())
    opened = store.open_run(run)["scores/lpips/score"]
    store.write_scores(run, "lpips", scored() + 1)
    assert opened.values[0, 0] == 0  # whoever had it open keeps what it saw

    def fail(path):
        raise OSError("no space left")

    monkeypatch.setattr(scores, "sync_filesystem", fail)
    with pytest.raises(OSError, match="no space left"):
        store.write_scores(run, "lpips", scored() + 2)
    assert store.read_scores(run)["lpips"]["score"].values[0, 0] == 1
    assert [file.name for file in (run / "scores").iterdir()] == ["lpips.nc"]


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("lpips", scored(["clean", "R2S0"]), "has no arm 'R2S0'; they are of another run"),
        ("lpips", scored(ARMS, [4, 5]), "has no sample 5"),
        ("lpips", scored(["clean", "clean"]), "a arm is given twice"),
        ("lpips", scored().rename(score="mean"), r"give score \(arm, sample\)"),
        ("lpips", scored().transpose("sample", "arm"), r"not score \('sample', 'arm'\)"),
        ("lpips", scored().drop_vars("arm"), "the coordinate arm is missing"),
        ("../lpips", scored(), "a metric is named by letters"),
    ],
)
def test_what_does_not_fit_the_run_is_refused_and_nothing_written(run, name, dataset, message):
    with pytest.raises(store.RunError, match=message):
        store.write_scores(run, name, dataset)
    assert not (run / "scores").exists()


def test_scores_of_another_run_are_refused(run, tmp_path):
    store.write_scores(run, "lpips", scored())
    other = create(tmp_path / "other")
    assert store.read_scores(other) == {}
    shutil.copytree(run / "scores", other / "scores")
    with pytest.raises(store.RunError, match=r"lpips.nc holds scores of another run; delete it.*trace score"):
        store.open_run(other)
