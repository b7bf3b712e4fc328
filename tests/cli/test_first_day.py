"""A first day: what a first run can answer, and what is printed and checked before it."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.builders.analytic import Analytic
from tests.builders.typed import FIRST, SMALL, files, trace
from tests.ground_truth import gaussian
from tracer.plan import PlanError, plan
from tracer.price import TIMED, disk, price, seconds_of_evaluation
from tracer.request import Request

# --- what the first run answers ---


def test_after_readmes_first_command_the_commands_of_its_last_line_answer_without_running_again(run, monkeypatch):
    monkeypatch.setattr("tracer.run.complete", None)  # nothing may run
    *_, last = run.output.strip().splitlines()
    said = {}
    for command in last.removeprefix("next: ").split("; "):
        name, *words = shlex.split(command)
        done = trace(*words)
        assert (name, done.exit_code) == ("trace", 0), done.output
        said[words[1] if words[0] == "analyze" else words[0]] = done.output
    assert set(said) == {"verdict", "growth", "sinks", "report"}
    assert "Feedback S" in said["verdict"]
    assert "`--record verdict`" in said["verdict"]  # what the other questions would need
    assert "the top key receives" in said["sinks"]


def test_what_else_the_plan_promises_can_be_analysed(run):
    (line,) = [line for line in run.output.splitlines() if line.startswith("answers")]
    promised = set(line.removeprefix("answers").strip().split(", "))
    assert {"verdict", "growth", "sinks"} < promised
    for name in promised - {"verdict", "growth", "sinks", "quality", "onset"}:  # networks look at pictures elsewhere
        done = trace("analyze", name, "--out", "elsewhere")
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "promised", "not_promised"),
    [
        (["--record", "sinks"], {"sinks"}, {"verdict", "growth"}),
        (["--record", "verdict"], {"verdict", "paths"}, {"growth", "sinks"}),
        (["--record", "growth,sinks"], {"growth", "sinks", "decompose"}, {"paths"}),
        (["--mask", "R4S32@steps=0:2", "--mask", "R4S32@steps=2:4"], {"impulse", "counterfactual"}, {"compare"}),
        (["--mask", "R4S32@strength=0.1"], {"counterfactual"}, {"impulse", "steps", "renoise"}),
    ],
)
def test_presets_and_arms_say_which_analyses_will_be_possible(words, promised, not_promised, tmp_path, free):
    found = json.loads(trace(*FIRST, *SMALL, *words, "--dry-run", "--json").stdout)["analyses"]
    assert promised <= set(found)
    assert not not_promised & set(found)


def test_a_model_without_attention_is_recorded_without_it():
    lam = np.ones((1, 8, 8))
    exact = gaussian.gaussian_denoiser(lam)
    checked = plan(Request(Analytic(exact, exact, (1, 8, 8)), "R1S0", samples=1, steps=2))
    assert {"latents", "replay"} <= checked.record
    assert not {"mass", "sinks"} & checked.record


# --- before anything is done ---


def test_a_dry_run_says_evaluations_time_disk_and_memory_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cost = json.loads(trace(*FIRST, *SMALL, "--dry-run", "--json").stdout)
    lanes = 3 + 5 + 5 + 5  # clean, masked, floor; then the injection and the replay apart from the arm
    assert cost["evaluations"] == lanes * 3 * 2  # samples, guidance
    assert min(cost["seconds"], cost["disk_bytes"], cost["memory_bytes"]) > 0
    words = ["--mask", "R4S32", "--counts", "1,2", "--samples", 1, "--dry-run", "--json"]
    study = json.loads(trace("counterfactual", "steps", *words).stdout)
    assert [each["steps"] for each in study["runs"]] == [1, 2]
    assert study["evaluations"] == sum(each["evaluations"] for each in study["runs"])
    sweep = json.loads(trace("sweep", "classify", "--mask", "R4S32", "--limit", 9, "--dry-run", "--json").stdout)
    assert sweep["evaluations"] == 2 * 9
    shown = trace("reproduce", "growth", "--small", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "would take" in shown.output
    assert "nothing was written" in shown.output
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [(0.1, ["warm", "sample", "batch", "plain"]), (2.0, ["warm", "sample", "plain"]), (9.0, ["warm", "plain"])],
)
def test_the_slower_a_network_is_the_fewer_evaluations_price_it(monkeypatch, seconds, calls):
    """A sample is timed, then a batch of a fast network; of a very slow one the first evaluation will do."""
    monkeypatch.setattr("tracer.price.SHORT", 0)
    told = []

    def timed(plan, samples, lanes, record):
        assert len(samples) in (1, 2)  # of 6 a quarter, on a CPU
        return (seconds if record else seconds / 2) * (len(samples) / 6 if len(samples) > 1 else 1)

    monkeypatch.setattr("tracer.price._timed", timed)
    checked = plan(Request("dit", "R4S32", samples=6, steps=4))
    recorded, plain, worded = seconds_of_evaluation(checked, lambda done, total: told.append((done, total)))
    assert told == [(k + 1, TIMED) for k in range(len(calls))]
    per_unit = 1 if seconds == 0.1 else 6
    assert (recorded, plain) == (pytest.approx(seconds * per_unit), pytest.approx(seconds / 2 * per_unit))
    assert worded == 0  # no maps of words are asked for


def test_a_short_run_is_priced_by_one_sample(monkeypatch):
    seconds = iter((9e-3, 1e-3) * 2)  # the first is warming up
    monkeypatch.setattr("tracer.price._timed", lambda plan, samples, lanes, record: next(seconds))
    checked = plan(Request("dit", "R4S32", samples=6, steps=4))
    assert seconds_of_evaluation(checked) == (6e-3, 6e-3, 0)
    assert price(checked).seconds == pytest.approx(1e-3 * checked.evaluations() / 2)  # guidance: two are timed as one


def test_the_estimate_of_disk_is_an_upper_bound_that_is_not_absurd(run):
    promised = disk(plan(Request("dit", "R4S32", samples=3, steps=4)))
    stored = sum(file.stat().st_size for file in Path("runs/dit-R4S32/trace.zarr").rglob("*") if file.is_file())
    assert 0.3 * promised < stored < promised


def test_the_announcement_names_classes_prompts_and_strange_words(run, tmp_path, free, monkeypatch):
    assert "classes     face, person, hand" in run.output
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red xylophone\na quantum heart\n")
    done = trace("run", "--model", "sd3", "--mask", "sink-k1", "--prompts", "p.txt", "--samples", 2, "--steps", 1)
    assert 'prompts     "a red xylophone", "a quantum heart"' in done.stdout
    assert "does not know the words xylophone, quantum" in done.stderr


def test_a_class_name_that_two_classes_have_is_refused_and_capitals_do_not_matter():
    def planned(name):
        model = Request("dit").load()
        model.classes = ("crane", "heart", "crane")
        return plan(Request("dit", classes=name, samples=1), model)

    assert planned("Heart").samples[0].class_label == 1
    assert planned("2").samples[0].class_label == 2
    with pytest.raises(PlanError, match="2 classes are called so; give a number, --classes 0,2"):
        planned("crane")


@pytest.mark.parametrize("seed", [-1, 2**62, 1.5, "7", True, None])
def test_an_odd_seed_is_refused_in_python_too(seed):
    with pytest.raises(PlanError, match="--seed"):
        plan(Request("dit", seed=seed))


def test_all_runs_of_a_study_are_checked_before_the_first_one_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study" / "T0003").mkdir(parents=True)
    (tmp_path / "study" / "T0003" / "thesis.tex").write_text("years of work")
    for words in (["--counts", "5,-1"], ["--counts", "2,3", "--out", "study"]):
        done = trace("counterfactual", "steps", "--mask", "R4S32", "--samples", 1, *words)
        assert done.exit_code == 2, done.output
    assert files(tmp_path) == ["study", "study/T0003", "study/T0003/thesis.tex"]
