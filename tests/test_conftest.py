"""How the tests themselves are run: folders in parallel, everything else at once and alone."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests import conftest

ROOT = Path(__file__).parent.parent


def workers(*words, capture="fd", where=ROOT):
    option, place = SimpleNamespace(capture=capture), SimpleNamespace(dir=where)
    return conftest.pytest_xdist_auto_num_workers(
        SimpleNamespace(args=list(words), option=option, invocation_params=place)
    )


def test_folders_have_a_process_for_every_core(monkeypatch):
    monkeypatch.setattr(conftest, "_cores", lambda: 2)
    assert workers("tests") == workers("tests/test_docs.py", "tests/cli") == 2
    assert workers("cli", where=ROOT / "tests") == workers(str(ROOT / "tests")) == 2
    monkeypatch.setattr(conftest, "_cores", lambda: 64)
    assert workers("tests") == conftest.MOST


def test_files_and_single_tests_start_no_process():
    assert workers("tests/test_docs.py") == workers("tests/test_docs.py::test_links_lead_somewhere[README.md]") == 0
    assert workers("tests", capture="no") == 0  # -s: what a test prints is to be seen


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="not in parallel")
def test_in_parallel_a_process_has_one_thread():
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_what_tests_start_can_be_interrupted_also_in_a_background_job():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        conftest.pytest_configure()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
