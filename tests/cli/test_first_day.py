"""A first day: what a first run can answer, what is printed before and after it, where output goes, what is shown."""

import errno
import io
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import tracer
from tests.builders.analytic import Analytic
from tests.builders.tiny_pipelines import save_sdxl
from tests.ground_truth import gaussian
from tracer import progress
from tracer.cli.main import main
from tracer.plan import PlanError, plan
from tracer.price import Price, disk
from tracer.quiet import quiet
from tracer.request import Request
from tracer.store.places import PlaceError, check_folder

FIRST = ["run", "--model", "dit", "--mask", "R4S32"]  # README's first command
SMALL = ["--samples", "3", "--steps", "4"]
PICTURED = r"a $\red$ heart_{1} $x"
"""A prompt that would be a broken formula."""


def trace(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with README's first run in it, small, and what it printed."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        done = trace(*FIRST, *SMALL)
    assert done.exit_code == 0, done.output
    return path, done


@pytest.fixture
def run(home, monkeypatch):
    """The output of that run; its folder is the working directory."""
    monkeypatch.chdir(home[0])
    return home[1]


@pytest.fixture
def free(monkeypatch):
    """Nothing is timed before a run: what it costs is not asked."""
    monkeypatch.setattr("tracer.price.price", lambda plan: Price(0, 0.0, 0, 0, ()))


@pytest.fixture
def idle(free, monkeypatch):
    """Runs are created and never computed."""
    monkeypatch.setattr("tracer.run.complete", lambda *plan, **options: None)


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
    for name in promised - {"verdict", "growth", "sinks", "quality"}:  # networks look at pictures elsewhere
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


# --- where output goes ---


def test_a_home_folder_is_meant_wherever_a_path_is_typed(run, tmp_path, free, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert trace(*FIRST, *SMALL, "--no-floor", "--out=~/x", "--record", "norms,latents").exit_code == 0
    assert (tmp_path / "x" / "trace.zarr").is_dir()
    assert trace("analyze", "growth", "~/x", "--out=~/y").exit_code == 0
    assert (tmp_path / "y" / "growth.csv").is_file()
    assert trace("mask", "R4S32", "--out=~/m.png").exit_code == 0
    assert tracer.open_run("~/x").sizes["sample"] == 3
    assert Request("dit", out="~/z").out == tmp_path / "z"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_an_empty_folder_is_used_as_it_is(tmp_path, idle, resume):
    (tmp_path / "made").mkdir()
    done = trace(*FIRST, "--samples", 1, "--steps", 1, "--no-floor", "--out", tmp_path / "made", *resume)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "made" / "trace.zarr").is_dir()


@pytest.fixture
def read_only(monkeypatch):
    """A folder in which nothing can be written, whoever tries."""

    def refuse(folder):
        before = tempfile.TemporaryFile

        def temporary(*words, dir=None, **options):
            if dir is not None and Path(dir).resolve() == Path(folder).resolve():
                raise OSError(errno.EROFS, "Read-only file system")
            return before(*words, dir=dir, **options)

        monkeypatch.setattr(tempfile, "TemporaryFile", temporary)

    return refuse


@pytest.mark.parametrize("words", [["analyze", "growth"], ["report"]])
def test_a_run_that_cannot_be_written_to_is_analysed_with_out(run, read_only, tmp_path, words):
    (path,) = (Path.cwd() / "runs").iterdir()
    before = files(path)
    read_only(path)
    refused = trace(*words, path)
    assert refused.exit_code == 2
    assert "Read-only file system): use --out ELSEWHERE" in refused.stderr
    if words[0] == "analyze":
        assert trace(*words, path, "--out", tmp_path).exit_code == 0
    assert files(path) == before


def test_a_place_is_checked_without_leaving_anything(tmp_path, read_only):
    check_folder(tmp_path / "a" / "b")
    assert files(tmp_path) == []
    read_only(tmp_path)
    with pytest.raises(PlaceError, match="use --out ELSEWHERE"):
        check_folder(tmp_path / "a" / "b")


def test_a_figure_that_fails_leaves_the_older_one_and_a_link_is_not_followed(tmp_path):
    from tracer.cli.files import save_figure

    class Broken:
        def savefig(self, file, **options):
            file.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    class Whole:
        def savefig(self, file, **options):
            file.write_text("new")

    (tmp_path / "growth.png").write_text("good")
    with pytest.raises(OSError, match="No space"):
        save_figure(Broken(), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_text() == "good"
    (tmp_path / "link.png").symlink_to("growth.png")
    save_figure(Whole(), tmp_path / "link.png")
    assert (tmp_path / "growth.png").read_text() == "good"
    assert files(tmp_path) == ["growth.png", "link.png"]


def test_several_runs_are_compared_beside_them_and_not_in_the_first(tmp_path, monkeypatch):
    from tracer.cli.analyze import common_folder

    monkeypatch.chdir(tmp_path)
    assert common_folder([Path("runs/a/T1"), Path("runs/a/T2")]) == Path("runs/a")
    assert common_folder([Path("runs/a"), Path("runs/a")]) == Path("runs/a")
    assert common_folder([Path("/x/a"), Path("/x/b")]) == Path("/x")


# --- pictures ---


def test_a_dollar_in_a_prompt_is_text_in_every_figure_and_on_the_page(tmp_path, free, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--mask", "sink-k1", "--mask", "random-k1", "--samples", 3, "--steps", 2, "--prompts", PICTURED]
    done = trace("run", "--model", "sd3", *words)
    assert done.exit_code == 0, done.output
    assert "images: " in done.output
    assert trace("report").exit_code == 0  # growth, bands, sinks, verdict and the pictures


def test_a_picture_that_cannot_be_drawn_does_not_decide_the_exit_code(tmp_path, idle, monkeypatch):
    def broken(run):
        raise ValueError("no ink")

    monkeypatch.setattr("tracer.cli.pictures.save_images", broken)
    done = trace(*FIRST, "--samples", 1, "--steps", 1, "--no-floor", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "Warning: no picture of the results (ValueError: no ink)" in done.stderr


# --- silence and progress ---


def test_libraries_are_silent_inside_and_as_they_were_outside():
    def heard():
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logging.getLogger("diffusers").addHandler(handler)
        try:
            logging.getLogger("diffusers.models").warning("Cannot initialize model with low cpu memory usage")
            with warnings.catch_warnings(record=True) as caught:
                warnings.warn_explicit("`torch_dtype` is deprecated", FutureWarning, "x.py", 1, "transformers.utils")
            warnings.warn_explicit("the run itself", UserWarning, "x.py", 1, "tracer.run")
            return stream.getvalue(), len(caught)
        finally:
            logging.getLogger("diffusers").removeHandler(handler)

    environment = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = heard()
        with quiet(), pytest.warns(UserWarning, match="the run itself"):
            inside = heard()
        assert heard() == before
    assert before[0]
    assert before[1] == 1
    assert inside[0] == ""
    assert dict(os.environ) == environment


def test_a_whole_pipeline_is_loaded_without_a_word(tmp_path, capfd):
    save_sdxl(tmp_path / "pipe")
    request = Request("sdxl", "sink-k1", checkpoint=str(tmp_path / "pipe"), prompts=["a red heart"], samples=1, steps=2)
    capfd.readouterr()
    planned = plan(request)
    planned.denoiser.prepare(planned.samples)
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_there_is_a_line_every_thirty_seconds(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    with progress.progress_bar("dit-R4S32") as tell:
        for done in range(1, 101):
            clock.now = float(done)
            tell(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "dit-R4S32: 30 of 100 steps, about 1.2 min left",
        "dit-R4S32: 60 of 100 steps, about 40 s left",
        "dit-R4S32: 90 of 100 steps, about 10 s left",
    ]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


def test_at_80_columns_the_time_that_is_left_can_be_read(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    name = "guidance-1.5: run 2 of 2 of a study whose name is long"
    with progress.progress_bar(name) as tell:
        tell(1, 25000)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n")
    shown = next(line for line in plain.splitlines() if "25000" in line)
    assert re.search(r"left [-0-9]+:[-0-9]{2}", shown)
    assert len(shown) <= 80
    assert "run 2 of" in shown


def test_a_notebook_gets_tqdm(monkeypatch):
    class ZMQInteractiveShell:
        pass

    bars = []

    class Bar:
        n = 0

        def __init__(self, **options):
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, more):
            self.n += more

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell))
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    with progress.progress_bar("x") as tell:
        tell(3, 9)
        tell(5, 9)
    assert (bars[0].n, bars[0].total) == (5, 9)


# --- lists and JSON ---


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
