"""Claims about a measure of another distribution: one file and one entry point put it on the command line."""

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from analysis import MEASURES
from tests.plugins import installed
from tracer.cli.main import main


@pytest.fixture
def _plugin():
    with installed(MEASURES):
        yield


def a_run(sizes):
    """A tree with one clean, one floor and one masked arm, and |delta| of the masked one per sample and step."""
    masked = np.asarray(sizes, dtype=float)
    delta = np.stack([np.zeros_like(masked), np.zeros_like(masked), masked])
    coords = {"arm": ["clean", "full", "R1S2"], "arm_role": ("arm", ["clean", "floor", "cell"])}
    return xr.DataTree.from_dict({"metrics": xr.Dataset({"delta_l2": (("arm", "sample", "step"), delta)}, coords)})


@pytest.mark.usefixtures("_plugin")
def test_it_is_a_measure_like_those_that_ship():
    halfway = MEASURES["halfway"]
    # half of 4 is reached in the second of four steps; half of 1 in the last, by hand
    dataset = halfway(a_run([[1, 2, 3, 4], [0.1, 0.2, 0.3, 1.0]]))
    np.testing.assert_array_equal(dataset["share"].sel(arm="R1S2"), [0.5, 1.0])
    assert dataset["arm"].values.tolist() == ["R1S2"]
    assert halfway.table(dataset)["median share"].tolist() == [0.75]
    assert "R1S2 after 75%" in halfway.sentence(dataset)
    assert len(halfway.figure(dataset).axes) == 1


@pytest.mark.usefixtures("_plugin")
def test_the_command_line_computes_and_draws_it(tmp_path):
    words = ["run", "--mask", "R1S2", "--samples", "3", "--steps", "4", "--record", "norms", "--out"]
    assert CliRunner().invoke(main, [*words, str(tmp_path / "run")]).exit_code == 0
    outcome = CliRunner().invoke(main, ["analyze", "halfway", str(tmp_path / "run")])
    assert outcome.exit_code == 0, outcome.output
    assert "of the final error is there: R1S2 after" in outcome.output
    assert (tmp_path / "run" / "halfway.png").is_file()
    assert (tmp_path / "run" / "halfway.csv").read_text().startswith("arm,median share\nR1S2,")
