"""Plain `pytest` runs folders in several processes of one thread each; a file or a single test runs in this one."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest

from tracer.allocator import collect_less_often

MOST = 4
"""Processes at most: each imports torch for itself and holds about 1.5 GB."""
ON_REQUEST = ("table", "papers")
"""Markers of tests that run only where -m names them."""
LONG = ("docs", "notebooks")
"""Folders of tests that take up to a minute each. They begin, so that at the end no process waits for another's."""


def pytest_configure() -> None:
    """Look for garbage less often. And be interruptible: a shell's background jobs start with Ctrl-C ignored, and so
    would the programs that tests start and interrupt.
    """
    collect_less_often()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is run on request and not asked for; what takes long comes first."""
    unasked = [name for name in ON_REQUEST if name not in (config.option.markexpr or "")]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unasked)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.path.parent.name not in LONG)


def pytest_collection_finish() -> None:
    """Do not look for garbage among what the libraries left in memory."""
    gc.collect()
    gc.freeze()


def _has_folder(config: pytest.Config) -> bool:
    """Whether a folder is asked for; with nothing on the command line, the folders of pyproject.toml are."""
    return any((config.invocation_params.dir / Path(name)).is_dir() for name in config.args)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _attention_backend_put_back():
    """diffusers chooses a backend for the whole process when one model is told to: not for the tests that follow."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    before = dispatch and dispatch._AttentionBackendRegistry._active_backend
    yield
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    if dispatch is not None:
        native = dispatch.AttentionBackendName.NATIVE
        dispatch._AttentionBackendRegistry._active_backend = before or native
