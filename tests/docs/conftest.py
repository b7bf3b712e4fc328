"""The machine of somebody who reads the pages."""

from __future__ import annotations

import pytest

from tests.builders import hub
from tests.docs import stand_ins
from tests.papers import networks
from tracer.cli.viewing.server import Server


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return stand_ins.Shelf(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def there(shelf, tmp_path, monkeypatch):
    """The reader's machine: an empty folder, his home, a hub that answers and a scheduler of jobs."""
    folder, home = tmp_path / "work", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(Server, "serve_forever", stand_ins.a_look_at)
    monkeypatch.setattr("webbrowser.open", lambda address: None)
    served = hub.serving(shelf, tmp_path / "cache")
    with networks.tiny_architectures(), served, stand_ins.job_queue(monkeypatch):
        yield folder
