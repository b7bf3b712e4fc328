"""The gallery shows every figure of a measure, and what it types gives the numbers that its programs compute."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis import MEASURES
from tests.docs.gallery import FIGURES, PAGE, shown
from tests.docs.pages import PYTHON, Block, blocks
from tests.docs.reader import Reader
from tracer.cli.terminal import with_index

LARGEST, ALL = 60e3, 1.2e6
"""Bytes of a figure, and of all of them."""


def test_every_measure_is_in_the_gallery():
    assert set(MEASURES.built_in) <= set(shown())
    for name in MEASURES.built_in:
        used = [block for block in blocks(PAGE) if block.language in PYTHON and f"analysis.{name}(" in block.text]
        assert len(used) == 1, name
        assert f'analysis.{name}.figure(data).savefig("{name}.png"' in used[0].text


def test_its_figures_are_small_and_none_is_left_over():
    sizes = {file.stem: file.stat().st_size for file in FIGURES.iterdir()}
    assert set(sizes) == set(shown())
    assert max(sizes.values()) < LARGEST, max(sizes, key=sizes.get)
    assert sum(sizes.values()) < ALL


def test_its_programs_are_of_few_lines():
    lengths = [len([line for line in b.text.split("\n") if line.strip()]) for b in blocks(PAGE) if b.language in PYTHON]
    assert max(lengths) <= 5


class Comparing(Reader):
    """After each program: its numbers are those in the CSV of the command before it. `compared`: the measures."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.compared: list[str] = []

    def types(self, words: list[str], where: str) -> None:
        """Without the pictures of measures, which the programs draw of the same data, and without the second page."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tracer.cli.analyze.save_figure", lambda figure, path: None)
            if words[0] != "report":
                super().types(words, where)

    def does(self, block: Block) -> None:
        """As any reader, and then looks."""
        super().does(block)
        measures = re.findall(r"^data = analysis\.(\w+)\(", block.text, re.M)
        for name, table in [
            (name, table) for name in measures for table in re.findall(r"^table: +(.+)$", self.told, re.M)
        ]:
            if Path(table).stem == name:
                records = with_index(MEASURES[name].records(self.scope["data"]))
                assert records.to_csv(index=False) == Path(table).read_text(), f"{block}: {name}"
                self.compared.append(name)


def test_its_programs_give_the_numbers_of_its_commands(there, monkeypatch):
    reader = Comparing(monkeypatch)
    reader.reads(PAGE)
    assert set(MEASURES.built_in) - set(reader.compared) == {"matched"}  # which has no command of its own
    assert {f"{name}.png" for name in MEASURES.built_in} <= {file.name for file in there.iterdir()}
