"""Silent libraries, and how far a long command is."""

import io
import logging
import os
import re
import sys
import warnings
from types import SimpleNamespace

import pytest

from tests.builders.tiny_pipelines import save_sdxl
from tracer import progress
from tracer.plan import plan
from tracer.quiet import quiet
from tracer.request import Request


def test_libraries_are_silent_inside_and_as_they_were_outside():
    def heard():
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logging.getLogger("diffusers").addHandler(handler)
        try:
            logging.getLogger("diffusers.models").warning("Cannot initialize model with low cpu memory usage")
            with warnings.catch_warnings(record=True) as caught:
                warnings.warn_explicit("`torch_dtype` is deprecated", FutureWarning, "x.py", 1, "transformers.utils")
            warnings.warn_explicit("the run itself", UserWarning, "x.py", 1, "tracer.run")
            return stream.getvalue(), len(caught)
        finally:
            logging.getLogger("diffusers").removeHandler(handler)

    environment = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = heard()
        with quiet(), pytest.warns(UserWarning, match="the run itself"):
            inside = heard()
        assert heard() == before
    assert before[0]
    assert before[1] == 1
    assert inside[0] == ""
    assert dict(os.environ) == environment


def test_a_whole_pipeline_is_loaded_without_a_word(tmp_path, capfd):
    save_sdxl(tmp_path / "pipe")
    request = Request("sdxl", "sink-k1", checkpoint=str(tmp_path / "pipe"), prompts=["a red heart"], samples=1, steps=2)
    capfd.readouterr()
    planned = plan(request)
    planned.denoiser.prepare(planned.samples)
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_there_is_a_line_every_thirty_seconds(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    with progress.progress_bar("dit-R4S32") as tell:
        for done in range(1, 101):
            clock.now = float(done)
            tell(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "dit-R4S32: 30 of 100 steps, about 1.2 min left",
        "dit-R4S32: 60 of 100 steps, about 40 s left",
        "dit-R4S32: 90 of 100 steps, about 10 s left",
    ]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


def test_at_80_columns_the_time_that_is_left_can_be_read(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    name = "guidance-1.5: run 2 of 2 of a study whose name is long"
    with progress.progress_bar(name) as tell:
        tell(1, 25000)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n")
    shown = next(line for line in plain.splitlines() if "25000" in line)
    assert re.search(r"left [-0-9]+:[-0-9]{2}", shown)
    assert len(shown) <= 80
    assert "run 2 of" in shown


def test_a_notebook_gets_tqdm(monkeypatch):
    class ZMQInteractiveShell:
        pass

    bars = []

    class Bar:
        n = 0

        def __init__(self, **options):
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, more):
            self.n += more

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell))
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    with progress.progress_bar("x") as tell:
        tell(3, 9)
        tell(5, 9)
    assert (bars[0].n, bars[0].total) == (5, 9)
