"""What runs there are and what each of them is, as tables, lines and JSON."""

import json
import shlex

import pytest

from tests.builders.typed import FIRST, trace


def test_runs_can_be_filtered_and_are_shown_with_masks_steps_records_and_seconds(run):
    shown = trace("runs").output
    assert "dit-R4S32" in shown
    assert "4 ddpm steps" in shown
    assert "sinks" in shown
    assert "+00:00" not in shown
    assert ".".join(("", "0")) not in shown.split("made")[0]
    for words, rows in (
        ([], 1), (["--model", "dit"], 1), (["--mask", "R4"], 1), (["R4S32", "ddpm"], 1),
    ):  # fmt: skip
        assert len(json.loads(trace("runs", *words, "--json").stdout)) == rows
    for words in (["--model", "sd3"], ["--mask", "sink"], ["flow"]):
        assert json.loads(trace("runs", *words, "--json").stdout) == []


def test_sweeps_are_listed_too(tmp_path):
    assert trace("sweep", "classify", "--mask", "R0S1", "--limit", 2, "--out", tmp_path / "a" / "s").exit_code == 0
    (line,) = json.loads(trace("runs", "--root", tmp_path, "--json").stdout)
    assert (line["name"], line["kind"], line["masks"], line["complete"]) == ("a/s", "sweep", ["R0S1"], 2)


@pytest.mark.parametrize(
    "words",
    [
        ["--classes", "heart,face", "--record", "verdict", "--paths", 2, "--noise", "coupled", "--mask-seed", 3],
        ["--checkpoint", "embedded:dit-half", "--no-floor", "--sampler", "ddim", "--guidance", "2.5", "--seed", 5],
        ["--model", "sd3", "--prompts", "a red heart", "--dtype", "bfloat16", "--record", "norms"],
    ],
)
def test_the_command_that_show_prints_makes_the_same_run(words, tmp_path, idle):
    made = trace("run", "--mask", "R4S32@layers=1", "--samples", 2, "--steps", 2, "--out", tmp_path / "run", *words)
    assert made.exit_code == 0, made.output
    command = shlex.split(json.loads(trace("show", tmp_path / "run", "--json").stdout)["command"])
    again = trace(*command[1:], "--out", tmp_path / "run", "--resume")
    assert again.exit_code == 0, again.output  # another configuration is refused


def test_show_says_what_is_complete_and_what_comes_next(run):
    shown = trace("show").output
    assert "3 of 3 complete" in shown
    assert "trace run --model dit --mask R4S32 --samples 3 --steps 4" in shown
    assert "next: trace analyze verdict runs/dit-R4S32" in shown


def test_everything_that_prints_a_result_prints_it_as_json(run, tmp_path, free):
    for words in (
        ["analyze", "growth", "--out", tmp_path], ["models"], ["show"], ["runs"],
        ["mask", "R2S8", "--grid", "6x6", "--out", tmp_path / "m.png"], ["reproduce", "--list"], ["score", "--list"],
        ["verify", "runs/dit-R4S32"], ["repair", "runs/dit-R4S32"],
    ):  # fmt: skip
        done = trace(*words, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout), words
    summary = trace(*FIRST, "--samples", 1, "--steps", 1, "--out", tmp_path / "run", "--json")
    found = json.loads(summary.stdout)
    assert (found["complete"], found["samples"]) == (1, 1)
    assert "checkpoint  embedded dit" in summary.stderr
