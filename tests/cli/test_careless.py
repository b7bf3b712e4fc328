"""The table of careless commands: exit 2, one message that says what to type, nothing written, none above 5 seconds."""

import re
import shutil
import time

import pytest
from click.testing import CliRunner

from tests.cli.careless import COMMANDS, lay_out
from tracer.cli.main import main

SECONDS = 5.0
ADVICE = re.compile(
    r"--\w|`|for example|did you mean|choose|give |make |write |type |use |takes? |must|allowed|lies? between|at most"
    r"|it is one of|run from|are called|expected|there are|needs|add |has no option|belongs|is not",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def folder(home, tmp_path_factory):
    path = tmp_path_factory.mktemp("careless")
    shutil.copytree(home[0] / "runs" / "dit-R4S32", path / "run")
    lay_out(path)
    return path


def contents(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_careless_command_is_refused_at_once_with_one_message_and_nothing_written(what, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = contents(folder)
    start = time.process_time()
    done = CliRunner().invoke(main, COMMANDS[what])
    took = time.process_time() - start
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("Error: ") == 1, done.output
    message = done.stderr.split("Error: ")[1]
    assert ADVICE.search(message), message
    assert "Traceback" not in message
    assert len(message) < 1500
    assert contents(folder) == before
    assert took < SECONDS
