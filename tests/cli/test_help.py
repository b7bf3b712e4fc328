"""Every command, found by walking the tree: its help fits the terminal, has examples, and the examples can be typed."""

import json
import re
import shlex

import click
import pytest
from click.testing import CliRunner

from tests.builders.typed import trace
from tracer.cli.help import COMMENT, laid_out
from tracer.cli.main import main
from tracer.cli.measures import takes_several
from tracer.cli.options import HEADINGS
from tracer.denoisers import MODELS
from tracer.request import parameters

WIDTHS = (60, 80, 110)
SAME = ("--json", "--dry-run", "--device", "--mask-seed", "--weights", "--mask")
"""Options that mean the same wherever they stand; `trace runs --mask` filters, and `trace score` says of what."""
OTHERWISE = {("runs", "--mask"), ("score", "--device")}


def walk(command, path=()):
    """(words, command) of a command and of all below it."""
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name="trace")
        for name in command.list_commands(ctx):
            yield from walk(command.get_command(ctx, name), (*path, name))


COMMANDS = dict(walk(main))
EXAMPLES = [(path, example.partition(COMMENT)[0]) for path, each in COMMANDS.items() for example in each.examples]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_the_terminal_and_has_examples(path):
    done = trace(*path, "--help")
    assert done.exit_code == 0, done.output
    assert "Examples:\n  " in done.stdout
    for width in WIDTHS:
        ctx = click.Context(COMMANDS[path], info_name=" ".join(("trace", *path)), terminal_width=width - 2)
        shown = COMMANDS[path].get_help(ctx)
        assert "\b" not in shown
        assert [line for line in shown.splitlines() if len(line) > width] == []


@pytest.mark.parametrize(("path", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_is_read_by_the_command_that_shows_it(path, line):
    """A group shows examples of its commands; a measure also what makes the run that it needs."""
    words = shlex.split(line.partition(" >> ")[0])
    if words[0] == "eval":
        words = shlex.split(re.fullmatch(r"\$\((.*)\)", words[1])[1])
    assert words[0] == "trace"
    command, args, ctx = main, words[1:], click.Context(main, info_name="trace")
    while isinstance(command, click.Group):
        _, command, args = command.resolve_command(ctx, args)
        ctx = click.Context(command, parent=ctx, info_name=command.name)
    ctx = command.make_context(command.name, list(args), parent=ctx.parent)
    assert not ctx.resilient_parsing


@pytest.mark.parametrize("name", [path[1] for path in COMMANDS if path[:1] == ("analyze",) and path[1:]])
def test_what_a_measure_says_makes_its_run_makes_one_that_it_can_be_asked_of(name, free, monkeypatch, tmp_path):
    """Planned, not run: the plan says which analyses its run will support."""
    from analysis.measure import about

    monkeypatch.chdir(tmp_path)
    made, said = COMMANDS["analyze", name].examples, about(name)
    lines = [line for line in made if not line.startswith("trace analyze")]
    assert lines
    assert any(line.startswith(f"trace analyze {name}") for line in made)
    if said.reads == "depth":
        return
    for line in lines:
        done = trace(*shlex.split(line)[1:], "--samples", "2", "--dry-run", "--json")
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        for run in told.get("runs", [told]):
            if said.beyond in ("runs", "forks"):  # no single run has that
                assert set(said.needs) <= {*run["record"], "norms"}
            else:
                assert name in run["analyses"], (line, run["record"])
    if said.beyond == "runs":
        assert takes_several(said)


@pytest.mark.parametrize("flag", SAME)
def test_the_same_option_is_worded_the_same_everywhere(flag):
    texts = {
        each.help
        for path, command in COMMANDS.items()
        for each in command.params
        if flag in each.opts and (path[-1], flag) not in OTHERWISE
    }
    assert len(texts) == 1, texts


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is(path):
    bare = [each.opts for each in COMMANDS[path].params if isinstance(each, click.Option) and not each.help]
    assert bare == []


def test_the_headings_of_a_run_name_every_option_once():
    placed = [name for names in HEADINGS.values() for name in names]
    assert len(placed) == len(set(placed))
    assert {name for name, each in parameters().items() if each.flag} == set(placed) - {"dry_run", "as_json"}
    assert trace("run", "--help").output.count("Options:") == 1  # --help alone


def test_trace_alone_shows_its_help_with_three_examples_and_where_to_go():
    done = trace()
    assert done.exit_code == 0
    assert done.stdout == trace("--help").stdout
    assert done.stdout.partition("Options:")[0].count("\n  trace ") == 3
    assert "trace completion bash" in done.stdout


def test_a_long_example_is_broken_as_a_shell_reads_it():
    example = "trace run --prompts 'a red heart' --record sinks --steps 250  # takes long"
    for width in (20, 40, 200):
        lines = laid_out(example, width)
        assert shlex.split("\n".join(lines).replace("\\\n", " "), comments=True) == shlex.split(example, comments=True)
    assert max(map(len, laid_out(example, 40))) <= 40


def test_nothing_is_coloured_where_it_is_piped_or_where_nobody_wants_it():
    for environment in ({}, {"NO_COLOR": "1"}, {"NO_COLOR": "1", "TERM": "xterm-256color"}):
        done = CliRunner(env=environment).invoke(main, ["models"])
        assert done.exit_code == 0
        assert "\x1b[" not in done.output
    assert all(name in done.output for name in MODELS.built_in)
