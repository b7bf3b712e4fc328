"""Tables on terminals of every width, and piped."""

import io
import re

import pandas as pd
import pytest

from tracer.cli import terminal
from tracer.cli.terminal import print_table

FRAME = pd.DataFrame(
    {
        "mask": ["R4S32", "sink-k5-value"],
        "S": ["0.97 [0.92, 1.04]", ""],
        "amplification along": ["undecided", "1.38 [1.22, 1.67]"],
        "error": [0.94746, 1.0],
        "recorded": ["latents,images,frames,mass,sinks,replay,norms,decomposition", "norms"],
    }
)
WORDS = ["mask", "R4S32", "sink-k5-value", "amplification", "along", "undecided", "error", "0.9475", "[0.92,", "1.04]"]


class Screen(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    def at(width, screen=None):
        screen = Screen() if screen is None else screen
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")  # of a dumb one rich takes 80 columns
        monkeypatch.setattr("sys.stdout", screen)
        print_table(FRAME)
        return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())

    return at


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_no_word_of_a_table_is_broken_and_all_of_it_is_there(shown, width):
    text = shown(width)
    assert [word for word in WORDS if not re.search(rf"(?<!\S){re.escape(word)}(?!\S)", text)] == []


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_table_is_no_wider_than_its_terminal(shown, width):
    assert max(len(line.rstrip()) for line in shown(width).splitlines()) <= width


def test_where_the_words_do_not_fit_a_row_stands_upright_and_what_is_empty_is_left_out(shown):
    first, second = shown(60).split("\n\n")
    assert first.splitlines()[0].split() == ["mask", "R4S32"]
    assert [line.split()[0] for line in second.splitlines()] == ["mask", "amplification", "error", "recorded"]


def test_piped_a_row_is_a_line(shown):
    assert len(shown(40, io.StringIO()).splitlines()) == 1 + len(FRAME)


@pytest.mark.parametrize(
    ("natural", "least", "width", "wanted"),
    [([5, 20], [5, 8], 40, [5, 20]), ([5, 20], [5, 8], 20, [5, 13]), ([30, 20], [5, 5], 30, [14, 14])],
)
def test_columns_that_have_most_to_give_are_narrowed(natural, least, width, wanted):
    assert terminal._fitted(natural, least, width) == wanted


def test_a_run_and_a_study_say_how_to_look_at_them(run):
    assert "look: trace view runs/dit-R4S32\nnext: " in run.stdout
