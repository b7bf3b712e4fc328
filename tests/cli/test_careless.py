"""The table of careless commands: exit 2, one message that says what to type, nothing written, none above 5 seconds."""

import re
import shlex
import shutil
import time

import pytest
from click.testing import CliRunner

from tests.cli.careless import COMMANDS, SLIPS, lay_out
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


def refused(words, folder):
    """The one message of a command that is wrong, with nothing printed or written beside it."""
    before = contents(folder)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("Error: ") == 1, done.output
    assert contents(folder) == before
    return done.stderr.split("Error: ")[1].strip()


@pytest.mark.parametrize("what", COMMANDS)
def test_a_careless_command_is_refused_at_once_with_one_message_and_nothing_written(what, folder, monkeypatch):
    monkeypatch.chdir(folder)
    start = time.process_time()
    message = refused(COMMANDS[what], folder)
    assert time.process_time() - start < SECONDS
    assert ADVICE.search(message), message
    assert "Traceback" not in message
    assert len(message) < 1500


@pytest.mark.parametrize("line", SLIPS)
def test_a_slip_is_answered_in_one_line_with_the_name_that_was_meant_and_how_to_see_all(line, folder, monkeypatch):
    monkeypatch.chdir(folder)
    message = refused(shlex.split(line), folder)
    assert "\n" not in message
    meant = re.search(r"did you mean `?(\S+(?: \w+)*?)`?(?:\?| or )", message)
    assert meant, message
    assert meant[1] == SLIPS[line]
    assert message[meant.end() :].strip(), message  # what there is, or how to list it
