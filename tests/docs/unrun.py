"""What the pages show and their test does not run: each with the reason, and with the place where else it is run.

Every entry must still stand in a page. Commands of `trace` that are listed here are parsed, at least.
"""

from __future__ import annotations

STARTERS = {
    "exec": "the shell's own word; what it starts is run",
    "srun --kill-on-bad-exit=0": "needs Slurm; what it starts is run as one process",
    "torchrun --standalone --nproc-per-node gpu --no-python": "many processes: tests/tracer/test_many_processes.py",
    "python -m cProfile -s tottime -m": "the profiler; what it starts is run",
}
"""What stands before `trace` in a command; the rest of it is run."""
OTHER_PROGRAMS = {
    "python3 -m venv .venv": "tests/test_base_install.py and .ci/run make environments",
    "python -m venv .venv": "tests/test_base_install.py and .ci/run make environments",
    ". .venv/bin/activate": "tests/test_base_install.py and .ci/run make environments",
    "pip install -c constraints.txt -e '.[run]'": "downloads; .ci/run installs '.[dev]', which holds it",
    "pip install -c constraints.txt -e '.[test]'": "downloads; .ci/run installs '.[dev]', which holds it",
    "pip install -c constraints.txt -e '.[dev]'": ".ci/run types it",
    "pip install -c constraints.txt -e '.[pipelines]'": "downloads; .ci/run installs '.[dev]', which holds it",
    "pip install 'denoise-trace[cloud]'": "downloads",
    "ssh -N -L 8321:127.0.0.1:8321 MACHINE": "another machine",
    "pre-commit install": "writes into the checkout's .git",
    "pytest": "it is what runs this",
    "python -m benchmarks --out table.json --markdown table.md": "half an hour; in small in tests/test_benchmarks.py",
}
"""Commands of other programs."""
COMMANDS = {
    "reproduce figure1": "minutes even with --small; what it calls, in small: tests/classify_clip/test_figure1.py",
}
"""Commands of `trace`, the words after it."""
