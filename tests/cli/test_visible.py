"""Nothing that comes from a store, a file or a name reaches the terminal as a control sequence."""

import io
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.builders.runs_by_hand import CONFIG, create, run_units
from tracer.cli.main import main
from tracer.cli.terminal import print_table
from tracer.visible import VisibleStream, visible, visible_output

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"


def controls(text: str) -> list[str]:
    return [c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c == "\u202e"]


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder with a run whose name, model, creation and arms are escape sequences, and one that cannot be read."""
    monkeypatch.chdir(tmp_path)
    for name in ("", "-broken"):
        create(Path(f"runs/a{EVIL}{name}"), "metrics", config={**CONFIG, "model": EVIL})
    run_units(Path(f"runs/a{EVIL}"))
    broken = Path(f"runs/a{EVIL}-broken/trace.zarr/zarr.json")
    broken.write_text(broken.read_text().replace('"schema_version": 2', '"schema_version": "\\u001b[2J"'))
    return f"runs/a{EVIL}"


@pytest.mark.parametrize(
    "words", [("runs",), ("verify", "RUN"), ("repair", "RUN"), ("analyze", "growth", "RUN"), ("analyze", "nope\x1b[2J")]
)
def test_escapes_in_names_and_attributes_are_printed_as_text(evil, words):
    shown = CliRunner().invoke(main, [word.replace("RUN", evil) for word in words])
    assert "\\x1b" in shown.output, shown.output
    assert controls(shown.output) == []


def test_text_is_left_as_it_is_and_controls_are_written_out():
    assert visible("é ☃ 🎨\tx\n") == "é ☃ 🎨\tx\n"
    assert visible("\x1b[2J\x07\x9b\x7f\r\u202e") == "\\x1b[2J\\x07\\x9b\\x7f\\x0d\\u202e"


def test_a_stream_that_cannot_hold_a_letter_gets_its_number():
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    VisibleStream(raw).write("a☃\n")
    raw.flush()
    assert raw.buffer.getvalue() == b"a\\u2603\n"


def test_tables_show_brackets_and_escapes_as_text(capsys):
    import pandas as pd

    with visible_output():
        print_table(pd.DataFrame({"arm": ["[red]R1S0[/red]", EVIL], "interval": ["[nan, nan]", ""]}))
    shown = capsys.readouterr().out
    assert "[red]R1S0[/red]" in shown
    assert "[nan, nan]" in shown
    assert controls(shown) == []


def test_the_streams_are_given_back(capsys):
    before = sys.stdout, sys.stderr
    CliRunner().invoke(main, ["--help"])
    with visible_output():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
