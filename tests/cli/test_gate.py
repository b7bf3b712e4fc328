"""`trace gate` as it is typed: on a run, making one, its exit status, and what it writes."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.gating.margins import MARGINS
from tests.builders.command_line import ROOT
from tests.builders.typed import files, trace
from tests.docs.reader import parse_like_click
from tracer import store
from tracer.store.places import PlaceError
from tracer.visible import visible

WEAK, STRONG = "R4S32@strength=0.01", "R0S1"
MADE = shlex.split(f"gate --mask '{WEAK}' --mask {STRONG} --samples 8 --steps 2 --batch-size 8 --out runs/x")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that the gate made, and what it answered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("gate"))
        done = trace(*MADE, "--markdown", "gate.md", "--json")
        assert done.exit_code == 1, done.output
        return Path.cwd(), json.loads(done.stdout)


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder of one's own with that run; its answer."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return made[1]


def test_it_runs_scores_judges_and_answers_by_its_exit_status(here):
    weak, strong = here["arms"]
    assert (weak["arm"], weak["answer"], weak["meets"], weak["samples"]) == (WEAK, "same picture", True, 8)
    assert (strong["answer"], strong["meets"]) == ("worse", False)
    assert (here["gate"], here["exit"], here["sentence"]) == ("failed", 1, f"gate failed: {STRONG} is worse")
    assert strong["above_floor"]["median"] > 1e3 * weak["above_floor"]["least"] > 0
    run = store.open_run("runs/x")
    assert run["status"].sel(arm="full").values.tolist() == [1] * 4 + [3] * 4  # the floor, on four samples
    assert Path("gate.md").read_text() == here["markdown"]


def test_the_unit_is_the_distance_of_a_clean_picture_to_that_of_the_next_sample(here):
    run = store.open_run("runs/x")
    clean = run["images/image"].sel(arm="clean").transpose("sample", ...).values.astype(float).reshape(8, -1)
    apart = [np.sqrt(np.mean((clean[k] - clean[(k + 1) % 8]) ** 2)) / 255 for k in range(8)]
    group = store.read_scores("runs/x")["pixels"]
    assert group["unrelated_score"].values == pytest.approx(np.array(apart))
    told = here["arms"][0]["evidence"][0]
    own = group["score"].sel(arm=WEAK).values
    assert (told["metric"], told["loss"]) == ("pixels", pytest.approx(own.mean() / np.mean(apart)))
    assert "unrelated_score" not in store.read_scores("runs/x")["agreement"]  # no distance


def test_a_run_is_read_and_nothing_is_measured_twice(here, monkeypatch):
    before = files(Path())
    monkeypatch.setattr("classify_clip.scores.scoring._measured", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("classify_clip.scores.unrelated._distances", lambda *_: pytest.fail("measured again"))
    for words, code in (((), 1), (("--mask", WEAK), 0), (("--mask", WEAK, "--require", "same-picture"), 0)):
        done = trace("gate", "runs/x", *words)
        assert done.exit_code == code, done.output
        assert done.stdout.splitlines()[-1].startswith("gate passed" if code == 0 else "gate failed")
    assert trace("gate", "--mask", WEAK, "runs/x").stdout == trace("gate", "runs/x", "--mask", WEAK).stdout
    assert files(Path()) == before
    shown = trace("gate", "runs/x", "--mask", WEAK, "--markdown", "-")
    assert shown.stdout.startswith("**trace gate passed")


def test_an_open_arm_is_exit_3(here):
    done = trace("gate", "runs/x", "--mask", STRONG, "--metric", "judge", "--margin", "share=0.2")
    assert done.exit_code == 3, done.output
    assert re.search(r"undecided, judge across the margin; about \d+ samples would decide", done.stdout)


@pytest.mark.parametrize(
    ("error", "told"),
    [(PlaceError("may not be written"), "may not be written"), (ModuleNotFoundError(name="torch"), "needs torch")],
    ids=["not to be written", "base install"],
)
def test_where_nothing_can_be_measured_scores_are_read_and_a_run_without_is_refused(error, told, here, monkeypatch):
    def refuse(*_):
        raise error

    monkeypatch.setattr("tracer.store.places.check_writable", refuse)
    assert trace("gate", "runs/x", "--mask", WEAK).exit_code == 0
    shutil.rmtree("runs/x/scores")
    done = trace("gate", "runs/x")
    assert done.exit_code == 2
    assert told in done.output


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("gate runs/x --mask R4S32@strength=0.1", "no arm 'R4S32@strength=0.1' in runs/x: did you mean"),
        ("gate runs/x --steps 3", "--steps: an option of a run that the gate makes, and runs/x is read as it is"),
        ("gate --steps 3", "--steps: an option of a run that the gate makes, and no --mask is named"),
        ("gate runs/x --metric pixel", "no such metric: did you mean pixels?"),
        ("gate runs/x --distance judge", "no distance 'judge' to clean is scored"),
        ("gate runs/x --margin picture", "give KIND=VALUE, for example picture=0.05"),
        ("gate runs/x --margin pictur=1", "no margin 'pictur': did you mean picture?"),
        ("gate runs/x --require same-pictures", "did you mean same-picture?"),
        ("gate runs/x --markdown nowhere/at/all.md", "nowhere"),
        ("gate runs/x --dry-run", "name at least one --mask, and no RUN"),
        ("gate run/x", "did you mean runs/x?"),
        ("gate --mask R4S3x", "R4S3x"),
        ("gate --mask R4S32 --markdown runs", "runs"),
    ],
)
def test_what_is_wrong_is_said_at_once_and_nothing_is_written(line, told, here):
    before = files(Path())
    done = trace(*shlex.split(line))
    assert done.exit_code == 2, done.output
    assert told in visible(done.output)
    assert files(Path()) == before


def test_a_dry_run_tells_the_cost_of_24_samples_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = trace("gate", "--mask", "R4S32", "--steps", "2", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["samples"], sorted(told["record"])) == (24, ["images", "norms"])
    assert files(tmp_path) == []


PAGE = (ROOT / "docs/howto/gate.md").read_text()


def keys_of(heading):
    """The keys that a table of the page documents, in its order."""
    table = PAGE.split(f"| {heading} | what it is |\n|---|---|\n")[1].split("\n\n")[0]
    return [key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_the_page_names_every_key_of_the_json_and_no_other(made):
    told = made[1]
    assert sorted(keys_of("key")) == sorted(told)
    assert sorted(keys_of("key of an arm")) == sorted(told["arms"][0])
    assert sorted(keys_of("key of evidence")) == sorted(told["arms"][0]["evidence"][0])
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `above_floor` |")]
    assert set(told["arms"][0]["above_floor"]) <= set(re.findall(r"`(\w+)`", row))


def test_the_workflow_of_the_page_is_yaml_and_its_command_exists():
    workflow = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
    lines = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    (line,) = [line for line in lines if line.startswith("trace ")]
    parse_like_click(shlex.split(line.partition(" > ")[0])[1:])


def test_the_margins_of_the_page_are_those_of_the_code():
    found = dict(re.findall(r"^\| (picture|score|share|set) \|.*?\| ([\d.]+) \|", PAGE, re.M))
    assert {name: float(value) for name, value in found.items()} == MARGINS
