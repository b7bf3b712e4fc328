"""Commands typed in this process, and README's first one."""

from click.testing import CliRunner

from tracer.cli.main import main

FIRST = ["run", "--model", "dit", "--mask", "R4S32"]  # README's first command
SMALL = ["--samples", "3", "--steps", "4"]


def trace(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
