"""Claims about a mask family of another distribution: one file and one entry point are enough for everything."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions import FAMILIES, SpecError, TokenLayout, arm_coordinates, attend, density, parse, solve_density
from interventions.families import density_families
from tests.builders import models
from tests.oracles import dense
from tests.plugins import FOLDER, installed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def _plugin():
    with installed(FAMILIES):
        yield


def colours(grid, side):
    """The definition, token by token: whether query and key have the same colour."""
    tokens = [divmod(token, grid[1]) for token in range(grid[0] * grid[1])]
    colour = [(row // side + column // side) % 2 for row, column in tokens]
    return np.array([[one == other for other in colour] for one in colour])


@pytest.mark.usefixtures("_plugin")
def test_its_specs_parse_print_and_are_explained():
    spec = parse("C2@layers=3;steps=0.0:0.5;strength=0.5")
    assert str(spec) == "C2@layers=3;steps=0.0:0.5;strength=0.5"
    assert parse(str(spec)) == spec
    with pytest.raises(SpecError, match=r"head 'c2': write it in capitals; did you mean C2\? \(for example C2\)"):
        parse("c2")
    with pytest.raises(SpecError, match=r"Known are R4S32, .*, full, .*, C2, no-block-2 "):
        parse("banana")
    with pytest.raises(SpecError, match="cell C0: it must be 1 or more"):
        parse("C0")
    with pytest.raises(SpecError, match="draw=fresh: C2 takes layers, steps"):
        parse("C2@draw=fresh")


@pytest.mark.usefixtures("_plugin")
def test_it_masks_checks_and_solves_like_those_that_ship():
    layout = TokenLayout((6, 9), prefix=1, text=2)
    mask = parse("C2").mask(layout)
    assert (mask[layout.image, layout.image] == colours((6, 9), 2)).all()
    assert mask[0].all()
    assert mask[:, -2:].all()
    with pytest.raises(SpecError, match="cell C9: it covers a 6x9 grid"):
        parse("C9").check(layout)
    assert density_families() == ("small-world", "preferential", "hub-spoke", "checkerboard", "local", "random")
    solved = solve_density("checkerboard", 0.5, TokenLayout((8, 8)))
    assert str(solved) == "C1"  # half of the tokens are white: exactly 1/2, as for 2 and 4
    assert density(colours((8, 8), 1)) == 0.5
    with pytest.raises(SpecError, match="did you mean checkerboard"):
        solve_density("chequerboard", 0.5, layout)
    with pytest.raises(SpecError, match="checkerboard on a 8x8 grid reaches"):
        solve_density("checkerboard", 0.1, TokenLayout((8, 8)))


@pytest.mark.usefixtures("_plugin")
def test_its_arms_have_coordinates():
    arm = arm_coordinates(parse("C2@steps=0.0:0.5;strength=0.5"), 9)
    assert arm["arm_family"] == "checkerboard"
    assert arm["arm_parameters"] == '{"side": 2}'
    assert (arm["arm_role"], arm["arm_mask"], arm["arm_match"]) == ("cell", "C2", "")
    assert (arm["arm_start"], arm["arm_stop"]) == (0, 5)  # 4.5 rounds up


@pytest.mark.usefixtures("_plugin")
def test_a_model_runs_under_it():
    # expected: the same model with every attention written out densely and renormalised under the mask's definition
    model, layout = models.dit()
    inputs = models.dit_inputs()
    mask = torch.from_numpy(colours(layout.grid, 1))

    def edit(name, attention, value):
        return dense.attend(dense.renormalised(attention, mask), value)

    with torch.no_grad():
        expected = dense.densify(model, edit)(
            **{k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        )
        with attend(model, parse("C1"), layout=layout):
            masked = model(**inputs)
        stock = model(**inputs)
    assert dense.relative(masked.sample, expected.sample) < 1e-5
    assert dense.relative(stock.sample, expected.sample) > 1e-3


def test_without_the_distribution_it_is_unknown_and_default_sweeps_never_change():
    with pytest.raises(SpecError, match="no intervention is written so"):
        parse("C2")
    shipped = ("small-world", "preferential", "hub-spoke", "local", "random")
    assert density_families() == shipped
    with installed(FAMILIES):
        assert density_families(shipped=True) == shipped


def test_the_command_line_knows_it_once_it_is_installed(tmp_path):
    code = "from tracer.cli.main import main; main(['mask', 'C2', '--grid', '8x8'])"
    path = os.pathsep.join([str(ROOT), str(FOLDER)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "C2" in done.stdout
    assert "2048" in done.stdout  # allowed pairs: half of 64 x 64


BROKEN = {
    "raises.py": "from interventions import Graph\nclass Family(Graph):\n"
    "    heads = ('X2',)\n    example = 'X2'\n    @classmethod\n    def read(cls, head):\n"
    "        return None if head != 'X2' else 1 / 0\n",
    "missing.py": "import a_module_that_is_not_there\n",
}


def other(folder, module):
    """Write a distribution `other` whose family is in that broken module."""
    info = folder / "other-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[denoise_trace.families]\nbroken = other_{module}:Family\n")
    (folder / f"other_{module}.py").write_text(BROKEN[f"{module}.py"])


def test_a_family_that_fails_on_a_head_is_named_in_one_message(tmp_path):
    other(tmp_path, "raises")
    with installed(FAMILIES, folder=tmp_path):
        with pytest.raises(SpecError, match=r"spec 'X2': head 'X2': the family Family fails on it with ZeroDivision"):
            parse("X2")
        assert str(parse("R4S32")) == "R4S32"


def test_a_family_that_cannot_be_imported_is_named_and_stops_no_other(tmp_path):
    other(tmp_path, "missing")
    with installed(FAMILIES, folder=tmp_path):
        with pytest.warns(
            RuntimeWarning, match=r"the family 'broken' of other 2\.0 cannot be loaded from other_missing"
        ):
            assert str(solve_density("local", 0.5, TokenLayout((7, 7)))) == "R4S0"
        with pytest.warns(RuntimeWarning, match="a_module_that_is_not_there"), pytest.raises(SpecError, match="banana"):
            parse("banana")


@pytest.mark.usefixtures("_plugin")
def test_a_family_that_knows_no_frames_is_refused_on_a_video():
    video = TokenLayout((3, 6, 9))
    reason = "its graphs are on one picture, and the image tokens are 3 frames"
    with pytest.raises(SpecError, match=f"C2: {reason}"):
        parse("C2").mask(video)
    with pytest.raises(SpecError, match=f"checkerboard: {reason}"):
        solve_density("checkerboard", 0.5, video)
