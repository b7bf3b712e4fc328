"""Plain `pytest` runs folders in several processes of one thread each; a file or a single test runs in this one."""

import gc
import os
from pathlib import Path

import pytest

MOST = 4
"""Processes at most: each imports torch for itself and holds about 1.5 GB."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` in pyproject.toml means: a process a core for folders; none for files, nor with -s."""
    if not _has_folder(config) or config.option.capture == "no":
        return 0
    return min(MOST, _cores())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """The processes and what they start compute with one thread, since there is one of them for every core."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not among what the libraries left in memory: a twelfth of the time otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(7000, 10, 10)


def _has_folder(config: pytest.Config) -> bool:
    """Whether a folder is asked for; with nothing on the command line, the folders of pyproject.toml are."""
    return any((config.invocation_params.dir / Path(name)).is_dir() for name in config.args)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
