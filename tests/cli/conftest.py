"""README's first run, small and made once, and runs that are neither timed nor computed."""

import pytest

from tests.builders.typed import FIRST, SMALL, trace
from tracer.price import Price


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with README's first run in it, small, and what it printed."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        done = trace(*FIRST, *SMALL)
    assert done.exit_code == 0, done.output
    return path, done


@pytest.fixture
def run(home, monkeypatch):
    """The output of that run; its folder is the working directory."""
    monkeypatch.chdir(home[0])
    return home[1]


@pytest.fixture
def free(monkeypatch):
    """Nothing is timed before a run: what it costs is not asked."""
    monkeypatch.setattr("tracer.price.price", lambda plan, tell=None: Price(0, 0.0, 0, 0, ()))


@pytest.fixture
def idle(free, monkeypatch):
    """Runs are created and never computed."""
    monkeypatch.setattr("tracer.run.complete", lambda *plan, **options: None)
