"""The recipes behind the pages: read, filled in, rehearsed, resumed; every command they hold is one that exists."""

import shlex

import click
import pytest

from tracer.cli.main import main
from tracer.cli.reproduction.lines import commands, matches, rehearsal
from tracer.cli.reproduction.recipe import RECIPES, braces, read, recipes

ALL = recipes()


def test_braces_are_a_shells():
    assert braces("a/T{0050,0100}/b") == ["a/T0050/b", "a/T0100/b"]
    assert braces("--mask") == ["--mask"]


def test_a_star_stands_for_what_is_there_when_the_command_runs(tmp_path):
    for name in ("fork0009", "fork0003"):
        (tmp_path / name).mkdir()
    assert matches(f"{tmp_path}/fork*") == [f"{tmp_path}/fork0003", f"{tmp_path}/fork0009"]
    assert matches("R4S32") == ["R4S32"]


def test_comments_and_empty_lines_are_no_commands(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(
        'about = "x"\ncommands = """\n# first\nmask $m --out $out/m.png\n\n"""\n[words]\nm = "R4S32 --grid 8x8"\n'
    )
    assert read(file).at().lines(tmp_path / "a b") == [
        ["mask", "R4S32", "--grid", "8x8", "--out", str(tmp_path / "a b" / "m.png")]
    ]


def test_a_rehearsal_has_few_samples_paths_and_steps_and_folders_named_by_them():
    line = shlex.split("run --samples 80 --paths 8 --forks 8 --counts 50,100,1000 --steps 20 --out r/T0250")
    small = shlex.split("run --samples 3 --paths 2 --forks 2 --counts 5,7,22 --steps 5 --out r/T0011")
    assert rehearsal(line) == small


def test_what_exists_is_resumed_and_not_repeated(tmp_path):
    (tmp_path / "dit-R4S32").mkdir()
    run, analyze = commands(ALL["growth"].at(), tmp_path)
    assert run[-1] == "--resume"
    assert "--resume" not in analyze


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("small", [False, True])
def test_every_command_of_a_recipe_is_one_that_exists_with_these_options(name, small, tmp_path):
    for line in commands(ALL[name].at(), tmp_path, small=small):
        context, command = click.Context(main), main
        rest = list(line)
        while isinstance(command, click.Group):
            command = command.get_command(context, rest.pop(0))
        command.make_context(line[0], rest, parent=context)  # raises UsageError for what does not exist


def test_a_recipe_lies_beside_the_page_that_it_makes():
    assert {file.stem for file in RECIPES.glob("*.toml")} == set(ALL) >= {"growth", "findings", "figure1", "sinks"}


def test_a_study_whose_samples_diverged_goes_on_and_exits_with_1_at_the_end(monkeypatch, tmp_path):
    from click.testing import CliRunner

    from tracer.cli import reproduce as module

    ran = []

    @click.group()
    def group():
        pass

    @group.command()
    @click.argument("word")
    def run(word):
        ran.append(word)
        if word == "wild":
            raise click.exceptions.Exit(1)

    group.add_command(module.reproduce)
    monkeypatch.setattr(module, "commands", lambda study, out, small, weights: [["run", "wild"], ["run", "calm"]])
    result = CliRunner().invoke(group, ["reproduce", next(iter(ALL)), "--out", str(tmp_path)])
    assert (result.exit_code, ran) == (1, ["wild", "calm"])
