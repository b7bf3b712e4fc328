"""`trace reproduce NAME`: the studies behind the pages in docs/, each a file of commands that anybody could type.

A recipe (`recipes/NAME.toml`) says what it is about, the commands line by line, and the words that they share. Every
command is printed and run; runs, figures and tables go into one folder, and a study that was interrupted goes on where
it stopped.
"""

from __future__ import annotations

import glob
import re
import shlex
import tomllib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from string import Template

import click

from tracer.cli.errors import answered, going_on_by
from tracer.cli.options import OUT, as_json, dry_run
from tracer.cli.terminal import print_json
from tracer.store.places import check_folder

RECIPES = Path(__file__).parent / "recipes"
PRICED = ("run", "counterfactual")
"""Commands that take --dry-run in every form that a recipe has."""
REHEARSED, FEWEST_STEPS = {"--samples": 3, "--paths": 2, "--forks": 2}, 5


@dataclass(frozen=True)
class Recipe:
    """A study: what it is about, and its commands with `$out` for the folder and `$word` for what they share."""

    about: str
    commands: tuple[str, ...]
    words: dict[str, str]

    def lines(self, out: Path) -> list[list[str]]:
        """The words of every command after `trace`, written under `out`; braces as in a shell."""
        values = {**self.words, "out": shlex.quote(str(out))}
        filled = (Template(line).substitute(values) for line in self.commands)
        return [list(chain.from_iterable(map(braces, shlex.split(line)))) for line in filled]


def recipes() -> dict[str, Recipe]:
    """Every recipe that ships, by name."""
    return {file.stem: read(file) for file in sorted(RECIPES.glob("*.toml"))}


def read(file: Path) -> Recipe:
    """A recipe from its file; empty lines and comments among the commands are left out."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    lines = (line.strip() for line in data["commands"].splitlines())
    commands = tuple(line for line in lines if line and not line.startswith("#"))
    return Recipe(data["about"], commands, data.get("words", {}))


def braces(word: str) -> list[str]:
    """`T{0050,0100}` -> T0050, T0100; a word without braces is itself."""
    match = re.fullmatch(r"(.*?)\{([^{}]*)\}(.*)", word)
    if match is None:
        return [word]
    before, middle, after = match.groups()
    return [f"{before}{part}{after}" for part in middle.split(",")]


def matches(word: str) -> list[str]:
    """`runs/fork*` -> what exists under these names now; a word without a star, or that nothing fits, is itself."""
    return sorted(glob.glob(word)) or [word] if "*" in word else [word]


def commands(recipe: Recipe, out: Path, *, small: bool = False) -> list[list[str]]:
    """What is typed after `trace`; runs that exist are resumed, not repeated. `small` is a rehearsal."""
    return [_resumed(rehearsal(line) if small else line) for line in recipe.lines(out)]


def _resumed(line: list[str]) -> list[str]:
    if line[0] not in ("run", "counterfactual"):  # the others keep what is there by themselves
        return line
    return [*line, "--resume"] if Path(line[line.index("--out") + 1]).exists() else line


def rehearsal(line: list[str]) -> list[str]:
    """The same command in small: `REHEARSED` samples, paths and forks, few steps; folders are named by these steps."""
    line = [re.sub(r"T(\d{4})$", lambda match: f"T{_few(match[1]):04d}", word) for word in line]
    for place, word in enumerate(line[:-1]):
        if word in REHEARSED:
            line[place + 1] = str(REHEARSED[word])
        elif word in ("--steps", "--counts"):
            line[place + 1] = ",".join(str(_few(count)) for count in line[place + 1].split(","))
    return line


def _few(count: str) -> int:
    """50 -> 5, 100 -> 7, 250 -> 11, 1000 -> 22: different numbers of steps stay different."""
    return max(FEWEST_STEPS, round((int(count) / 2) ** 0.5))


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--out", type=OUT, metavar="DIR", help="Default: runs/NAME.")
@click.option("--small", is_flag=True, help="A rehearsal: 3 samples, 5 to 22 steps; its numbers mean nothing.")
@click.option("--list", "listed", is_flag=True, help="List the studies.")
@dry_run
@as_json
@click.pass_context
def reproduce(
    ctx: click.Context,
    name: str | None,
    out: Path | None,
    small: bool,
    listed: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a study behind a page of docs/ again.

    Every command it runs is printed, so that any of them can be typed alone with other settings. A study that was
    interrupted goes on where it stopped. `trace reproduce --list` names the studies. With --json, one object for every
    command.
    """
    known = recipes()
    table = "\n".join(f"  {key:10} {recipe.about}" for key, recipe in known.items())
    if listed:
        if as_json:
            return print_json({key: recipe.about for key, recipe in known.items()})
        click.echo(table)
        return
    if name not in known:
        what = f"no study {name!r}" if name else "name a study"
        raise click.UsageError(f"{what}; there are\n{table}")
    folder = out or Path("runs") / (f"{name}-small" if small else name)
    with answered():
        check_folder(folder)
    again = ["trace", "reproduce", name, *(["--small"] if small else []), *(["--out", str(folder)] if out else [])]
    trace = ctx.find_root().command
    failed = False
    with going_on_by(shlex.join(again)):
        for template in commands(known[name], folder, small=small):
            line = list(chain.from_iterable(map(matches, template)))
            click.echo(f"\n$ trace {shlex.join(line)}", err=as_json)
            if dry_run and line[0] not in PRICED:
                continue  # they read what the commands before them would have made
            line += [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])]
            failed |= bool(trace.main(args=line, prog_name="trace", standalone_mode=False))  # of samples that diverged
    if failed:
        ctx.exit(1)
