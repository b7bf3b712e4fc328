"""What is printed when a command is stopped: typed as it stands, it goes on where the command was."""

import importlib
import os
import shlex
import signal
import sys

import pytest
from click.testing import CliRunner

import tracer
from tracer import store
from tracer.cli.main import main
from tracer.cli.reproduce import Recipe
from tracer.price import Price

SMALL = ["--samples", "1", "--steps", "2", "--no-floor"]
RECIPE = Recipe(
    "two",
    "two runs and what is said of them",
    (
        "run --mask R4S32 --samples 20 --steps 20 --no-floor --record latents --out $out/one",
        "run --mask R4S32 --samples 20 --steps 20 --no-floor --record norms --out $out/two",
        "show $out/one",
    ),
)
COMMANDS = {
    "run": (["run", "--mask", "R4S32", *SMALL], 1, {"runs/dit-R4S32"}),
    "run --out=": (["run", "--mask", "R4S32", *SMALL, "--out=a b"], 1, {"a b"}),
    "study": (
        ["counterfactual", "guidance", "--mask", "R4S32", *SMALL],
        2,
        {"runs/dit-guidance/guidance-1", "runs/dit-guidance/guidance-1.5"},
    ),
    "study --out": (
        ["counterfactual", "guidance", "--mask", "R4S32", *SMALL, "--out", "mine"],
        2,
        {"mine/guidance-1", "mine/guidance-1.5"},
    ),
    "reproduce": (["reproduce", "two", "--small"], 2, {"runs/two-small/one", "runs/two-small/two"}),
    "reproduce --out": (["reproduce", "two", "--small", "--out", "a b"], 1, {"a b/one", "a b/two"}),
}
"""What is typed, the run in which it is stopped, and the runs that are whole in the end."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tracer.price.price", lambda plan, tell=None: Price(0, 0.0, 0, 0, ()))
    monkeypatch.setattr("tracer.cli.pictures.save_images", lambda run: None)
    monkeypatch.setattr("tracer.cli.reproduce.recipes", lambda: {"two": RECIPE})
    return tmp_path


def typed(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["trace", *words])
    return CliRunner().invoke(main, words)


def way_on(done):
    """The words of the command that a stopped one prints."""
    assert done.exit_code == 1, done.output
    name, *words = shlex.split(done.output.split("Go on with:")[1])
    assert name == "trace"
    return words


@pytest.mark.parametrize("what", COMMANDS)
def test_the_command_that_a_stopped_one_prints_goes_on_where_it_was(what, folder, monkeypatch):
    words, stop_in, whole = COMMANDS[what]
    running = importlib.import_module("tracer.run")
    complete, runs = running.complete, []

    def stopped(plan, path, **options):
        runs.append(path)
        if len(runs) == stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        return complete(plan, path, **options)

    monkeypatch.setattr(running, "complete", stopped)
    command = way_on(typed(monkeypatch, words))
    second = typed(monkeypatch, command)
    assert second.exit_code == 0, second.output
    assert "done in " in second.output
    assert ("run 2 of 2" in second.output) == what.startswith("study")
    made = {str(file.parent.parent.relative_to(folder)) for file in folder.rglob("trace.zarr/zarr.json")}
    assert made == whole
    assert all((tracer.open_run(folder / path)["status"] == 1).all() for path in made)


@pytest.mark.parametrize("out", [[], ["--out", "a b"]])
def test_a_stopped_sweep_goes_on_too(folder, monkeypatch, out):
    sweep = importlib.import_module("classify_clip.sweep")
    run_cells = sweep.run_cells
    monkeypatch.setattr(sweep, "run_cells", lambda *work: os.kill(os.getpid(), signal.SIGTERM))
    words = ["sweep", "classify", "--mask", "R0S1", "--limit", "2", *out]
    command = way_on(typed(monkeypatch, words))
    monkeypatch.setattr(sweep, "run_cells", run_cells)
    second = typed(monkeypatch, command)
    assert second.exit_code == 0, second.output
    (made,) = [file.parent.parent for file in folder.rglob("sweep.zarr/zarr.json")]
    assert (store.open_sweep(made)["status"] == 1).all()
