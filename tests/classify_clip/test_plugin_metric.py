"""Claims about a metric of another distribution: one file and one entry point are enough to score and analyse by it."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import analysis
import tracer
from classify_clip import METRICS, ScoreError, score
from tests.builders.pictures import picture_run
from tests.plugins import installed
from tracer.cli.main import main


def grey(*levels):
    return np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])


def test_it_is_listed_last_scored_by_name_or_by_default_and_read_by_analysis():
    run = picture_run({"clean": grey(0, 51, 102), "R4S0": grey(51, 102, 153), "full": grey(0, 51, 102)})
    with installed(METRICS):
        assert list(METRICS)[-1] == "brightness"
        scored = score(run, "brightness")
        by_default = score(run)
    np.testing.assert_allclose(scored["scores/brightness/score"].sel(arm="clean"), [0, 0.2, 0.4])
    ds = analysis.quality(scored)  # what is stored says all that analysis needs: the distribution is not installed now
    change = ds["change"].sel(metric="brightness", arm="R4S0").values
    np.testing.assert_allclose(change, 0.2)  # every picture is 51 / 255 brighter
    assert "brightness 0.4 against 0.2 clean" in analysis.quality.sentence(ds)
    assert analysis.quality(by_default)["metric"].values.tolist() == ["pixels", "brightness"]


def test_without_the_distribution_it_is_unknown():
    with pytest.raises(ScoreError, match="--metric brightness: no such metric"):
        score(picture_run({"clean": grey(0, 1, 2)}), "brightness")


def test_the_command_line_lists_scores_and_analyses_by_it(tmp_path):
    path = tmp_path / "run"
    tracer.trace("dit", "R4S0", samples=3, steps=2, record=("norms", "images"), out=path)
    with installed(METRICS):
        listed, scored, analysed = (
            CliRunner().invoke(main, words)
            for words in (
                ["score", "--list"],
                ["score", str(path), "--metric", "brightness"],
                ["analyze", "quality", str(path), "--metric", "brightness"],
            )
        )
    assert "brightness" in listed.output
    assert scored.exit_code == 0, scored.output
    assert (path / "scores" / "brightness.nc").is_file()
    assert analysed.exit_code == 0, analysed.output
    rows = pd.read_csv(path / "quality.csv").set_index("arm")
    pictures = tracer.open_run(path)["images/image"]
    for arm in ("R4S0", "full"):  # of the pictures themselves
        assert rows.loc[arm, "value"] == pytest.approx(float(pictures.sel(arm=arm).mean()) / 255)
