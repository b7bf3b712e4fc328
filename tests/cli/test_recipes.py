"""The files of the papers' recipes: what their rows pick is what their commands make, and published numbers are those
that FACTS has. One of them is run in small.
"""

from pathlib import Path

import pytest

from analysis.measures.curves import PUBLISHED, PUBLISHED_CLEAN
from interventions import parse
from tests.builders.rehearsals import rehearsed, unread
from tracer.cli.reproduction.lines import commands
from tracer.cli.reproduction.recipe import SCALES, recipes

OUT = Path("out")
OURS = {
    name: recipe
    for name, recipe in recipes().items()
    if recipe.paper in ("probing", "sinks") and name.startswith(("probing-", "sinks-"))
}
STUDIES = {
    f"{name} {scale}{' as published' * published}": recipe.at(
        scale, dict.fromkeys(recipe.needs, "x") if scale == "paper" else {}, published
    )
    for name, recipe in OURS.items()
    for scale in SCALES
    for published in (False, True)
    if not recipe.none_at(scale) and (recipe.as_published or not published)
}


def test_every_recipe_that_was_asked_for_is_there():
    parts = ("a1-a2-a3", "attribution", "budget", "dose", "dynamics", "fid", "hps", "layers", "perceptual", "phases",
             "sampling", "sdxl")  # fmt: skip
    assert set(OURS) >= {"probing-table1", "probing-figure1", *(f"sinks-{part}" for part in parts)}


def made(study) -> dict[str, list[str]]:
    """Table -> arms of the run or sweep that it is written from."""
    arms: dict[str, list[str]] = {}
    tables: dict[str, list[str]] = {}
    for line in commands(study, OUT):
        if line[0] in ("run", "sweep"):
            folder = line[line.index("--out") + 1]
            arms[folder] = ["clean", *(line[place + 1] for place, word in enumerate(line) if word == "--mask")]
            if line[0] == "sweep":
                tables[f"{folder}/curves.csv"] = arms[folder]
        elif line[0] == "analyze":
            folder = line[line.index("--out") + 1] if "--out" in line else line[2]
            tables[f"{folder}/{line[1]}.csv"] = arms.get(line[2], [])
    return tables


@pytest.mark.parametrize("name", STUDIES)
def test_rows_and_figures_are_of_what_the_commands_make(name):
    study = STUDIES[name]
    tables = made(study)
    for row in study.rows(OUT):
        assert row.table in tables, row.what
        for arm in row.pick.get("arm", row.pick.get("spec", "clean")).split(" - "):
            assert arm in tables[row.table], f"{row.what}: {arm} is no arm of that run"
            assert arm == "clean" or arm == str(parse(arm)), f"{arm} is not written as the store writes it"
    folders = {str(Path(table).parent) for table in tables}
    assert {str(Path(picture.file).parent) for picture in study.pictures(OUT)} <= folders


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_not_published_is_a_claim_and_its_bound_is_in_how(name):
    study = STUDIES[name]
    for row in study.rows(OUT):
        if row.claim.startswith("within"):
            assert row.claim.split()[1] in study.recipe.how, row.what


def test_table_1_is_there_row_by_row():
    tasks = {"retrieve": "CLIP R@1", "classify": "ViT top-1", "generate": "DiT CMMD"}
    names = {"small-world": "small-world", "preferential": "preferential attachment", "hub-spoke": "hub-spoke"}
    rows = {row.what: row.published for row in OURS["probing-table1"].published()}
    for task, clean in PUBLISHED_CLEAN.items():
        assert rows.pop(f"{tasks[task]}, clean") == (clean,)
    for (task, density), cells in PUBLISHED.items():
        for family, (value, percent) in cells.items():
            what = f"{tasks[task]}, {names[family]} at {density:.0%}"
            assert rows.pop(what) == (value,)
            assert rows.pop(f"{what}, change of clean") == pytest.approx((percent / 100,))
    assert not rows


def test_published_numbers_of_the_sink_paper():
    rows = {row.what: row.published for name in OURS for row in OURS[name].published() if name == "sinks-perceptual"}
    assert sorted(rows.values()) == [
        (0.053,), (0.104,), (0.265, 0.295, 0.323), (0.308, 0.332, 0.358), (0.347,), (0.436,), (6.0,)
    ]  # fmt: skip
    hps = [row.published for row in OURS["sinks-hps"].published()]
    assert hps == [(-0.002,), (-0.008, -0.005, -0.001), (-0.026, -0.020, -0.013)]


def test_windows_of_phases_tile_the_steps_and_the_published_ones_are_one_step_late():
    ours, theirs = (STUDIES[f"sinks-phases embedded{how}"] for how in ("", " as published"))
    acted = []
    for study in (ours, theirs):
        (run, *_) = commands(study, OUT)
        arms = [run[place + 1] for place, word in enumerate(run) if word == "--mask"][::2]
        acted.append([{step for step in range(20) if step in parse(arm).scope.window(20)} for arm in arms])
    assert acted[0] == [set(range(7)), set(range(7, 13)), set(range(13, 20))]
    assert acted[1] == [set(range(1, 8)), set(range(8, 14)), {0, *range(14, 20)}]


def test_a_recipe_in_small_has_a_number_in_every_row(tmp_path):
    found = rehearsed("sinks-dynamics", tmp_path / "out")
    assert found
    assert not unread(found)
