"""Every command and every program of the pages runs, in the order of its page, at the size of a test.

A page is one test in a folder of its own, in which a model hub and the reader's files are stood in for
(`stand_ins`); how a command is made small says `smaller`, and what is not run is listed in `unrun`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.docs import stand_ins, unrun
from tests.docs.pages import PAGES, PYTHON, ROOT, SHELL, blocks, commands, launcher, prose, shell_lines, traced
from tests.docs.reader import Reader

SHOWN = ("toml", "ini", "text", "yaml")
"""Languages of blocks that are looked at: files, and what a terminal shows."""
BEFORE: dict[str, tuple[str, ...]] = {
    "docs/api/analysis.md": ("run --model dit --mask R4S32",),
    "docs/howto/pages.md": ("run --model dit --mask R4S32", "run --model dit --mask R0S63"),
    "docs/howto/xarray.md": ("run --model dit --mask R4S32",),
    "docs/metrics.md": ("run --model dit --mask R4S32",),
    "docs/scale.md": ("run --model dit --mask R4S32",),
    "docs/schema.md": ("run --model dit --mask R4S32", "sweep classify --mask R4S32"),
    "docs/sinks.md": ("run --model sd3 --mask sink-k1 --mask random-k1 --record norms,mass,sinks,images",),
}
"""Page -> commands that its reader has typed before: they make what its own speak of."""
HAS_A_PIPELINE = ("README.md",)
"""Pages whose programs begin with the reader's own `pipe`."""
SAVED: dict[str, str] = {}
"""Page -> the folder in which he has saved it."""
RUN = [
    page
    for page in PAGES
    if page.name != "gallery.md" and any(block.language in (*SHELL, *PYTHON) for block in blocks(page))
]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def typed_before(tmp_path_factory):
    """What the commands of BEFORE write, each typed once: command -> the folder in which it was."""
    made: dict[str, Path] = {}

    def into(there: Path, line: str, reader: Reader) -> None:
        if line not in made:
            made[line] = tmp_path_factory.mktemp("before")
            reader.patch.chdir(made[line])
            reader.types(shlex.split(line), "before it")
            reader.patch.chdir(there)
        shutil.copytree(made[line], there, dirs_exist_ok=True)

    return into


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_commands_and_programs_of_a_page_run(page, there, typed_before, monkeypatch):
    reader = Reader(monkeypatch)
    stand_ins.readers_files(there, there.parent / "home", page.read_text())
    for line in BEFORE.get(name(page), ()):
        typed_before(there, line, reader)
    if name(page) in HAS_A_PIPELINE:
        reader.scope["pipe"] = pipe = stand_ins.users_pipeline()
        if folder := SAVED.get(name(page)):
            pipe.save_pretrained(folder)
    reader.reads(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_language_that_is_run_or_looked_at(page):
    for block in blocks(page):
        assert block.language in (*SHELL, *PYTHON, *SHOWN), f"{block}: {block.language or 'no language'}"
    assert not re.findall(r"^(?: {4}|\t)trace .*", prose(page), re.M), "put it into a block of its own"


def test_what_is_listed_as_not_run_still_stands_in_the_pages():
    typed = [command for page in PAGES for block in blocks(page) if block.language in SHELL
             for command in commands(shell_lines(block))]  # fmt: skip
    started = {shlex.join(launcher(command)) for command in typed if traced(command)}
    others = {shlex.join(command) for command in typed if not traced(command)}
    assert set(unrun.STARTERS) <= started
    assert set(unrun.OTHER_PROGRAMS) <= others
    assert set(unrun.COMMANDS) <= {shlex.join(traced(command)) for command in typed}


@pytest.mark.parametrize("line", ["frobnicate --all", "srun --unheard trace runs"])
def test_what_is_neither_run_nor_listed_is_noticed(line, monkeypatch):
    with pytest.raises(AssertionError, match="is neither run nor listed"):
        Reader(monkeypatch).command(line.split(), "a page")


def test_a_command_or_a_program_that_fails_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader, page = Reader(monkeypatch), tmp_path / "page.md"
    page.write_text("```bash\ntrace mask R4S32 --gird 16x16\n```\n")
    with pytest.raises(AssertionError, match="--gird: did you mean --grid"):
        reader.reads(page)
    page.write_text("- a list\n\n    ```py\n    import tracer\n    tracer.opne_run()\n    ```\n")
    with pytest.raises(AttributeError, match="opne_run"):
        reader.reads(page)


def test_shell_text_is_cut_as_a_shell_cuts_it():
    text = "trace run --mask 'R4S32@layers=1;steps=0:5' \\\n  --steps 4 && trace runs  # all; of them\n"
    assert commands(text) == [
        ["trace", "run", "--mask", "R4S32@layers=1;steps=0:5", "--steps", "4"], ["trace", "runs"]
    ]  # fmt: skip
    assert commands("trace run --mask R4S32@layers=1;steps=0:5")[0][-1] == "R4S32@layers=1"


def test_a_console_block_holds_commands_and_what_they_print(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ trace runs\nrun  model\n```\n")
    assert shell_lines(blocks(page)[0]).split("\n")[0] == "trace runs"
