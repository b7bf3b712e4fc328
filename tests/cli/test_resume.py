"""What is printed when a command is stopped: typed as it stands, it goes on where the command was."""

import importlib
import shlex
import sys

import pytest
from click.testing import CliRunner

import tracer
from tracer.cli.main import main

STUDY = ["counterfactual", "guidance", "--mask", "R4S32", "--samples", "1", "--steps", "2"]


def typed(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["trace", *words])
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("named", [[], ["--out", "mine"], ["--out=mine"]])
def test_a_study_stopped_in_its_second_run_goes_on_by_the_command_that_it_prints(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    running = importlib.import_module("tracer.run")
    complete, runs = running.complete, []

    def stopped(plan, path, **options):
        runs.append(path.name)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return complete(plan, path, **options)

    monkeypatch.setattr(running, "complete", stopped)
    first = typed(monkeypatch, STUDY + named)
    assert first.exit_code == 1
    command = shlex.split(first.output.split("Go on with:")[1])
    second = typed(monkeypatch, command[1:])
    assert second.exit_code == 0, second.output
    root = tmp_path / ("mine" if named else "runs/dit-guidance")
    assert sorted(path.name for path in root.iterdir()) == ["guidance-1", "guidance-1.5"]
    assert all((tracer.open_run(path)["status"] == 1).all() for path in root.iterdir())
