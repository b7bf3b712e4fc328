"""The one rule from errors to exit codes, as the docstring of `tracer.cli.errors` states it."""

import os
import signal

import click
import pytest
from click.testing import CliRunner

from interventions.errors import FailureError, InputError
from tracer.cli.errors import answered


def outcome(error, go_on=None):
    """Exit code and output of a command that raises `error`."""

    @click.command()
    def command():
        with answered(lambda: go_on):
            raise error

    result = CliRunner().invoke(command)
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("error", "go_on", "code", "said"),
    [
        (InputError("no such mask"), None, 2, "no such mask"),
        (InputError("the disk was swapped"), "trace run --resume", 1, "Go on with:  trace run --resume"),
        (FailureError("a worker died"), None, 1, "FailureError: a worker died"),
        (ValueError("a library's own"), None, 1, "ValueError: a library's own"),
        (KeyboardInterrupt(), "trace run --resume", 1, "stopped"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), None, 2, "pip install 'denoise-trace[run]'"),
        (ModuleNotFoundError("No module named 'x'", name="x"), None, 1, "ModuleNotFoundError"),
        (click.UsageError("name a mask"), "trace run --resume", 2, "name a mask"),
    ],
)
def test_bad_input_is_2_before_anything_was_written_and_everything_else_is_1(error, go_on, code, said):
    exit_code, output = outcome(error, go_on)
    assert exit_code == code
    assert said in output


def test_a_termination_signal_is_answered_as_ctrl_c_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)

    @click.command()
    def command():
        with answered(lambda: "trace run --resume"):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()

    result = CliRunner().invoke(command)
    assert result.exit_code == 1
    assert "trace run --resume" in result.output
    assert signal.getsignal(signal.SIGTERM) is before
