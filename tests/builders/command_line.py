"""The command line in a process of its own, as a user's shell starts it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def trace(*words: object, folder: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess:
    """Run `trace` with these words in `folder`; `path` is put before the checkout on the import path."""
    return python("-m", "tracer.cli.main", *words, folder=folder, path=path)


def python(*words: object, folder: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess:
    """Run this interpreter on the checkout's code with these words in `folder`."""
    where = os.pathsep.join(map(str, [*path, ROOT]))
    environment = {**os.environ, "PYTHONPATH": where, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
