"""The command line in a process of its own, as a user's shell starts it, or in one process for many commands."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def trace(*words: object, folder: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess:
    """Run `trace` with these words in `folder`; `path` is put before the checkout on the import path."""
    return python("-m", "tracer.cli.main", *words, folder=folder, path=path)


Trace = Callable[..., subprocess.CompletedProcess]
ONE_AFTER_ANOTHER = """
import json, sys
from click.testing import CliRunner
from tracer.cli.main import main
for line in sys.stdin:
    done = CliRunner().invoke(main, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


@contextmanager
def one_process(python: str | Path, folder: Path, environment: Mapping[str, str]) -> Iterator[Trace]:
    """`trace(*words)` in `folder`, every time in the same process of that interpreter: it imports torch once."""
    command = [str(python), "-c", ONE_AFTER_ANOTHER]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def trace(*words: object) -> subprocess.CompletedProcess:
            print(json.dumps([str(word) for word in words]), file=process.stdin, flush=True)
            return subprocess.CompletedProcess(words, *json.loads(process.stdout.readline()))

        yield trace
        process.stdin.close()


def python(*words: object, folder: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess:
    """Run this interpreter on the checkout's code with these words in `folder`."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=on_checkout(path), capture_output=True, text=True)


def on_checkout(path: Sequence[Path] = ()) -> dict[str, str]:
    """The environment in which the checkout's code is imported, and `path` before it."""
    where = os.pathsep.join(map(str, [*path, ROOT]))
    return {**os.environ, "PYTHONPATH": where, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
