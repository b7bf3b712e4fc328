"""What scoring would take, before it does."""

import json

import pytest

import tracer
from classify_clip import score
from classify_clip.generation import balanced_reference
from classify_clip.scores.cost import cost
from tests.builders.pictures import drawings, picture_run
from tests.builders.typed import trace


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("scored") / "run"
    tracer.trace("dit", ["R4S0"], samples=3, steps=2, record=("norms", "images"), batch_size=3, out=path)
    return path


def test_every_picture_that_is_not_scored_yet_is_counted_and_nothing_is_written(run):
    arms = len(tracer.open_run(run)["arm"])
    said = trace("score", run, "--metric", "pixels", "--metric", "mmd", "--dry-run", "--json")
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["pictures"] == {"pixels": 3 * arms, "mmd": 3 * arms}
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 1e8  # torch alone
    assert not (run / "scores").exists()
    trace("score", run, "--metric", "pixels", "--metric", "mmd")
    written = sum(file.stat().st_size for file in (run / "scores").iterdir())
    assert found["disk_bytes"] / 100 < written <= found["disk_bytes"]
    assert "nothing is missing" in trace("score", run, "--metric", "pixels", "--dry-run").stdout


def test_what_is_scored_already_costs_nothing_and_the_rest_its_share():
    images, labels = drawings(6)
    run = picture_run({"clean": images, "R4S0": 255 - images}, labels=labels)
    run["status"].values[:, 4:] = 0  # two samples are not complete
    assert cost(run, "judge").pictures == {"judge": 8}
    scored = score(run, "judge")
    scored["status"].values[:, 4:] = 1  # the run went on
    assert cost(scored, ["judge"]).pictures == {"judge": 4}


def test_pictures_of_a_reference_are_counted_too():
    images, _ = drawings(6)
    run = picture_run({"clean": images, "R4S0": images})
    held_out = cost(run, ["mmd"], reference="held-out").pictures["mmd"] - 12
    assert held_out == len(balanced_reference())
    with_it = score(run, ["mmd"], reference="held-out")
    assert cost(with_it, ["mmd"], reference="held-out").pictures == {}


def test_a_run_that_is_not_there_yet_costs_what_it_costs_when_it_is(run, tmp_path):
    """Pictures are black before there are any; how many there are, and the bytes, are the same."""
    arms = len(tracer.open_run(run)["arm"])
    words = ("--metric", "pixels", "--metric", "alignment", "--dry-run", "--json")
    expected = trace("score", tmp_path / "later", *words, "--expect", f"{arms}x3x32x32")
    found = json.loads(expected.stdout.splitlines()[-1])
    assert found["pictures"] == {"pixels": 3 * arms, "alignment": 3 * arms}
    assert found["disk_bytes"] > 0
    assert not (tmp_path / "later").exists()
    judged = trace("score", tmp_path / "later", "--metric", "judge", "--dry-run", "--json", "--expect", "2x3x32x32")
    assert json.loads(judged.stdout.splitlines()[-1])["pictures"] == {"judge": 6}
    for wrong in ("6x553x1024", "axbxcxd", "0x1x1x1"):
        assert f"--expect {wrong}: give arms x samples" in trace("score", run, *words, "--expect", wrong).output
    assert "belongs to --dry-run" in trace("score", run, "--expect", "1x1x8x8").output
