"""Every command and every program of the pages runs, in the order of its page, at the size of a test.

A page is one test in a folder of its own, in which a model hub and the reader's files are stood in for
(`stand_ins`); how a command is made small says `smaller`, and what is not run is listed in `unrun`.
"""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.builders import hub
from tests.docs import stand_ins, unrun
from tests.docs.pages import PAGES, PYTHON, ROOT, SHELL, Block, blocks, commands, launcher, prose, shell_lines, traced
from tests.docs.smaller import small_command, small_program
from tests.papers import networks
from tracer.cli.main import main
from tracer.cli.reproduction.recipe import recipes
from tracer.cli.viewing.server import Server

SHOWN = ("toml", "ini", "text")
"""Languages of blocks that are looked at: files, and what a terminal shows."""
BEFORE: dict[str, tuple[str, ...]] = {
    "docs/api/analysis.md": ("run --model dit --mask R4S32",),
    "docs/howto/pages.md": ("run --model dit --mask R4S32",),
    "docs/howto/xarray.md": ("run --model dit --mask R4S32",),
    "docs/metrics.md": ("run --model dit --mask R4S32",),
    "docs/scale.md": ("run --model dit --mask R4S32",),
    "docs/schema.md": ("run --model dit --mask R4S32", "sweep classify --mask R4S32"),
    "docs/sinks.md": ("run --model sd3 --mask sink-k1 --record images",),
}
"""Page -> commands that its reader has typed before: they make what its own speak of."""
HAS_A_PIPELINE = ("README.md", "docs/howto/pipeline.md")
"""Pages whose programs begin with the reader's own `pipe`."""
SAVED = {"docs/howto/pipeline.md": "mine"}
"""Page -> the folder in which he has saved it."""
RUN = [page for page in PAGES if any(block.language in (*SHELL, *PYTHON) for block in blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


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


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_commands_and_programs_of_a_page_run(page, there, monkeypatch):
    stand_ins.readers_files(there, there.parent / "home", page.read_text())
    for line in BEFORE.get(name(page), ()):
        typed(shlex.split(line))
    scope: dict[str, object] = {"__name__": "__main__"}
    if name(page) in HAS_A_PIPELINE:
        scope["pipe"] = pipe = stand_ins.users_pipeline()
        if folder := SAVED.get(name(page)):
            pipe.save_pretrained(folder)
    for block in blocks(page):
        if block.language in SHELL:
            for command in commands(shell_lines(block)):
                run_command(command, block)
        elif block.language in PYTHON and not block.mark.startswith("file:"):
            exec(compile(small_program(block.text), str(block), "exec"), scope)
        elif block.language == "toml":
            stand_ins.install(block.text, scope, monkeypatch)


def run_command(command: list[str], block: Block) -> None:
    """Type what calls `trace`, but for what `unrun` says; stand in for the rest or find it listed."""
    if command[0] == "sbatch":  # its job is text
        for inner in commands(command[command.index("--wrap") + 1]):
            run_command(inner, block)
        return None
    start, words = shlex.join(launcher(command)), traced(command)
    if not words:
        if command[:4] == ["aws", "s3", "cp", "--recursive"]:
            return stand_ins.copied_to_a_bucket(Path(command[4]), command[5])
        assert start in unrun.OTHER_PROGRAMS, f"{block}: {start} is neither run nor listed in tests/docs/unrun.py"
        return None
    assert not start or start in unrun.STARTERS, f"{block}: {start} is not listed in tests/docs/unrun.py"
    if shlex.join(words) in unrun.COMMANDS or run_elsewhere(words):
        return parse_like_click(words)
    return typed(words, str(block))


def run_elsewhere(words: list[str]) -> bool:
    """Whether .ci/run rehearses this recipe with the same words."""
    rehearsed = (ROOT / ".ci" / "run").read_text()
    if words[0] != "reproduce" or len(words) != 2:
        return False
    recipe = recipes().get(words[1])
    kind = "papers" if recipe is not None and recipe.paper else words[1]
    return f"trace reproduce {kind} --small" in rehearsed


def typed(words: list[str], where: str = "") -> None:
    words = [stand_ins.in_memory(word) for word in small_command(words)]
    for model, make in stand_ins.LOCAL.items():
        words += ["--checkpoint", str(stand_ins.made(Path("local"), make))] if model in words else []
    before = time.process_time()
    outcome = CliRunner().invoke(main, words)
    print(f"TIME {time.process_time() - before:6.1f} {where} {shlex.join(words)}")
    assert outcome.exit_code == 0, f"{where}: trace {shlex.join(words)}\n{outcome.output}\n{outcome.exception!r}"


def parse_like_click(words: list[str]) -> None:
    """Resolve a command and parse its options and arguments without running it; raises click's own errors."""
    command: click.Command = main
    context = click.Context(main, info_name="trace")
    while isinstance(command, click.Group) and words:
        _, found, words = command.resolve_command(context, list(words))
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=found.name)
    if not isinstance(command, click.Group):
        command.make_context(command.name, list(words), parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_language_that_is_run_or_looked_at(page):
    for block in blocks(page):
        assert block.language in (*SHELL, *PYTHON, *SHOWN), f"{block}: {block.language or 'no language'}"
    assert not re.findall(r"^(?: {4}|\t)trace .*", prose(page), re.M), "put it into a block of its own"
