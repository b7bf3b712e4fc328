"""Silent libraries, and how far a long command is."""

import io
import logging
import os
import re
import subprocess
import sys
import threading
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


def test_bytes_that_are_read_are_told_in_words_from_any_thread(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    with progress.reading(None, "dit-xl", said=True):
        tell = progress.reading_progress()
        clock.now = 40.0
        thread = threading.Thread(target=tell, args=(10**9, 3 * 10**9))
        thread.start()
        thread.join()
        with progress.reading(None, "the same again", said=True):
            assert progress.reading_progress() is tell
    progress.reading_progress()(1, 2)  # nobody listens
    assert capsys.readouterr().err.splitlines() == [
        "loading dit-xl",
        "loading dit-xl: 1 GB of 3 GB, about 1.3 min left",
    ]


@pytest.mark.parametrize("asked", [False, lambda done, total: pytest.fail("it was asked for steps")])
def test_reading_is_silent_where_no_bar_of_ours_is_asked_for(asked, capsys):
    with progress.reading(asked, "dit-xl", said=True):
        progress.reading_progress()(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_megabytes_while_it_reads(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.reading(None, "dit-xl", said=True):
        progress.reading_progress()(1_500_000_000, 3_000_000_000)
    assert "loading dit-xl" in screen.getvalue()
    assert "1.5/3.0 GB" in screen.getvalue()


def test_a_checkpoint_of_ones_own_is_named_before_anything_heavy_is_imported(tmp_path):
    """In a process of its own: the first line stands there while torch is not even imported."""
    program = (
        "import sys; from tracer.cli import run; from tracer.cli.main import main\n"
        "def heavy(*_): sys.exit(['not yet', 'torch is imported']['torch' in sys.modules])\n"
        "run.checked_plans = heavy\n"
        "main(['run', '--mask', 'R4S32', *sys.argv[1:]])"
    )
    for words, said in ((["--checkpoint", str(tmp_path)], f"loading {tmp_path}\n"), ([], "")):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
        assert done.stderr == f"{said}not yet\n"


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


def test_slow_work_of_unknown_length_is_said_once_it_has_taken_a_while(monkeypatch, capsys):
    said = threading.Event()
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr("builtins.print", lambda *text, **how: (sys.stderr.write(f"{text[0]}\n"), said.set()))
    with progress.working("verdict: 1000 samples x 3 arms x 250 steps"):
        assert said.wait(10)
    assert capsys.readouterr().err == "verdict: 1000 samples x 3 arms x 250 steps\n"
    said.clear()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)
    with progress.working("verdict"):
        assert said.wait(10)
        said.clear()
        assert said.wait(10)
    assert "verdict, 1 s so far" in capsys.readouterr().err


def test_quick_work_and_notebooks_say_nothing(monkeypatch, capsys):
    with progress.working("quick"):
        pass
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    with progress.working("in a notebook"):
        pass
    assert capsys.readouterr().err == ""


def test_an_error_inside_work_is_raised_and_the_teller_ends(monkeypatch):
    before = threading.active_count()
    with pytest.raises(ValueError, match="inside"), progress.working("x"):
        raise ValueError("inside")
    assert threading.active_count() == before
