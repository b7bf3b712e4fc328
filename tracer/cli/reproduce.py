"""`trace reproduce NAME`: the studies behind the pages in docs/, each a file of commands that anybody could type.

A recipe (`recipes/NAME.toml`) says what it is about, the commands line by line, and what a paper has published. Every
command is printed and run; runs, figures and tables go into one folder, and a study that was interrupted goes on where
it stopped. What a recipe is, is `tracer.cli.reproduction`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import click

from interventions.naming import unknown
from tracer.cli import completing
from tracer.cli.errors import answered, going_on_by
from tracer.cli.help import Choice, Command
from tracer.cli.options import OUT, as_json, dry_run
from tracer.cli.options import weights as with_weights
from tracer.cli.reproduction.lines import commands, matches
from tracer.cli.reproduction.recipe import PAPERS, SCALES, SOURCES, Recipe, RecipeError, Study, read, recipes
from tracer.cli.terminal import frame_as_data, print_json, print_table, progress_bar
from tracer.store.places import check_folder, expanded

ALL = "papers"
"""Stands for every recipe of a paper, and writes their page."""


@dataclass(frozen=True)
class Asked:
    """How a study is to be run, as typed."""

    scale: str = "embedded"
    given: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    as_published: bool = False
    small: bool = False
    dry_run: bool = False
    as_json: bool = False


@click.command(
    cls=Command,
    examples=(
        "trace reproduce --list",
        "trace reproduce sinks-perceptual",
        "trace reproduce sinks-perceptual --scale paper --with prompts=evaluation_metadata.jsonl --dry-run",
        "trace reproduce papers --small  # a rehearsal of all recipes of the papers",
        "trace reproduce my-study.toml",
    ),
)
@click.argument("name", metavar="[NAME|FILE]", required=False, shell_complete=completing.names(completing.recipes))
@click.option(
    "--scale",
    type=Choice(SCALES),
    default="embedded",
    show_default=True,
    help="Of a paper's recipe: the shipped models, or the paper's own.",
)
@click.option(
    "--with",
    "given",
    multiple=True,
    metavar="WORD=VALUE",
    shell_complete=completing.recipe_words,
    help="A word of the recipe, such as checkpoint=DIR or device=cpu. Repeatable.",
)
@with_weights
@click.option("--as-published", is_flag=True, help="As the paper's code does it, where that differs.")
@click.option("--out", type=OUT, metavar="DIR", help="Default: runs/NAME.")
@click.option("--page", type=OUT, metavar="FILE", help=f"Of {ALL}: the page; default: {ALL}.md in the folder.")
@click.option("--small", is_flag=True, help="A rehearsal: 3 samples, 5 to 22 steps; its numbers mean nothing.")
@click.option("--list", "listed", is_flag=True, help="List the studies.")
@dry_run
@as_json
@click.pass_context
def reproduce(
    ctx: click.Context,
    name: str | None,
    out: Path | None,
    page: Path | None,
    listed: bool,
    given: tuple[str, ...],
    weights: tuple[str, ...],
    **typed: Any,
) -> None:
    """Run a study behind a page of docs/ again, or a table or figure of a paper.

    Every command it runs is printed, so that any of them can be typed alone with other settings. A study that was
    interrupted goes on where it stopped. A paper's recipe ends with the published values beside ours. With --json, one
    object for every command.
    """
    known, typed_name = recipes(), name
    if listed:
        return _list(known, typed["as_json"])
    if name and name.endswith(".toml"):
        with answered():
            theirs = read(expanded(name))
            name, known[theirs.name] = theirs.name, theirs
    if name != ALL and name not in known:
        what = f"no study {name!r}" if name else "name a study"
        raise click.UsageError(unknown(what, name or "", [*known, ALL], "`trace reproduce --list` says what each is"))
    if page is not None and name != ALL:
        raise click.UsageError(f"--page belongs to `trace reproduce {ALL}`, which writes one")
    asked = Asked(given=_pairs("--with", given), weights=_pairs("--weights", weights), **typed)
    chosen = [known[name]] if name != ALL else [recipe for recipe in known.values() if recipe.paper]
    folder = out or Path("runs") / "-".join(filter(None, (name, *_how(asked))))
    with answered():
        check_folder(folder)
        studies = {study.recipe.name: study for study in _studies(chosen, asked, every=name == ALL)}
    failed = False
    with going_on_by(_again(str(typed_name), out, asked)):
        for study in studies.values():
            own = folder / study.recipe.name if name == ALL else folder
            failed |= _run(ctx, study, own, asked)
    if name == ALL and not asked.dry_run:
        with answered():
            _write_page(chosen, studies, folder, page or folder / f"{ALL}.md", asked)
    if failed:
        ctx.exit(1)


def _studies(chosen: list[Recipe], asked: Asked, *, every: bool) -> Iterator[Study]:
    """The recipes at the scale asked for; of `every` those that there are, each with the words that it knows.

    Raises RecipeError for a word that none knows.
    """
    words = set().union(*(recipe.known_words(asked.scale) for recipe in chosen))
    if every and (strange := [word for word in asked.given if word not in words]):
        what = f"--with {strange[0]}=...: no recipe has such a word"
        raise RecipeError(unknown(what, strange[0], sorted(words), "docs/papers.md says which has which"))
    for recipe in chosen:
        if every and recipe.none_at(asked.scale):
            continue
        known = recipe.known_words(asked.scale)
        given = {word: value for word, value in asked.given.items() if word in known} if every else asked.given
        yield recipe.at(asked.scale, given, asked.as_published and (bool(recipe.as_published) or not every))


def _how(asked: Asked) -> list[str]:
    """What of the way it is run names the folder, so that no two ways share one."""
    return [
        *([asked.scale] if asked.scale != SCALES[0] else []),
        *(["as-published"] if asked.as_published else []),
        *(["small"] if asked.small else []),
    ]


def _again(name: str, out: Path | None, asked: Asked) -> str:
    """The command line that goes on."""
    words = ["trace", "reproduce", name]
    words += ["--scale", asked.scale] if asked.scale != SCALES[0] else []
    words += ["--as-published"] * asked.as_published + ["--small"] * asked.small
    for option, pairs in (("--with", asked.given), ("--weights", asked.weights)):
        words += chain.from_iterable((option, f"{key}={value}") for key, value in pairs.items())
    words += ["--out", str(out)] if out else []
    return shlex.join(words)


def _run(ctx: click.Context, study: Study, folder: Path, asked: Asked) -> bool:
    """Run every command and set the published values beside ours; whether a sample diverged."""
    trace = ctx.find_root().command

    def call(line: list[str]) -> object:
        return trace.main(args=line, prog_name="trace", standalone_mode=False)  # type: ignore[attr-defined]

    lines = commands(study, folder, small=asked.small, weights=asked.weights)
    if asked.dry_run or study.scale != SCALES[0]:
        _tell_cost(study, lines, call, asked)
    if asked.dry_run:
        return False
    _keep(study, folder, asked.small)
    failed = False
    for template in lines:
        line = [*chain.from_iterable(map(matches, template)), *(["--json"] if asked.as_json else [])]
        click.echo(f"\n$ trace {shlex.join(line)}", err=asked.as_json)
        failed |= bool(call(line))  # of samples that diverged
    with answered():
        _keep(study, folder, asked.small, ended=True)
        _show_beside(study, folder, asked)
    return failed


def _tell_cost(study: Study, lines: list[list[str]], call: Any, asked: Asked) -> None:
    """Say what all commands will take; in a dry run, which they are too."""
    from dataclasses import asdict

    from tracer.cli.reproduction.cost import cost

    with progress_bar("what it will take", "commands") as tell:
        found = cost(lines, call, tell)
    if asked.dry_run and asked.as_json:
        return print_json({"study": study.recipe.name, "lines": [shlex.join(line) for line in lines], **asdict(found)})
    if asked.dry_run:
        click.echo("\n".join(f"$ trace {shlex.join(line)}" for line in lines))
    click.echo(f"{study.recipe.name} would take  {found}", err=not asked.dry_run)
    if asked.dry_run:
        click.echo("nothing was written (--dry-run)")


def _keep(study: Study, folder: Path, small: bool, ended: bool = False) -> None:
    """Write down how the study is run, and when it began and ended; of one that goes on the beginning stays."""
    from tracer.cli.reproduction.page import RECORD
    from tracer.store.durable import replacing
    from tracer.store.provenance import provenance

    folder.mkdir(parents=True, exist_ok=True)
    file, now = folder / RECORD, datetime.now(UTC).isoformat()
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    about = {
        "study": study.recipe.name,
        "scale": study.scale,
        "as_published": study.as_published,
        "small": small,
        "began": before.get("began", now),
        "ended": now if ended else None,
        "words": dict(study.words),
    }
    with replacing(file) as aside:
        aside.write_text(json.dumps({**about, **provenance()}, indent=1), encoding="utf-8")


def _show_beside(study: Study, folder: Path, asked: Asked) -> None:
    """Print the table of published values beside ours, and write it down."""
    if not (rows := study.rows(folder)):
        return
    from tracer.cli.reproduction import beside
    from tracer.store.durable import replacing

    lines = beside.beside(rows, comparable=study.scale == "paper" and not asked.small)
    file = folder / "published.csv"
    table = beside.frame(lines)
    with replacing(file) as aside:
        table.to_csv(aside, index=False)
    if asked.as_json:
        found = {"study": study.recipe.name, "scale": study.scale, "small": asked.small, "rows": frame_as_data(table)}
        return print_json({**found, "sentence": beside.sentence(lines), "csv": file})
    click.echo(
        f"\n{study.recipe.name}, {study.scale} scale. {SOURCES[study.recipe.paper] if study.recipe.paper else ''}\n"
    )
    print_table(beside.shown(lines))
    for line in filter(None, (line.problem for line in lines)):
        click.echo(f"Warning: {line}", err=True)
    click.echo(f"\n{beside.sentence(lines)}\ntable:  {file}")
    if asked.small:
        click.echo("This was a rehearsal (--small): no number of it, and nothing said of them, means anything.")


def _write_page(chosen: list[Recipe], studies: Mapping[str, Study], folder: Path, page: Path, asked: Asked) -> None:
    from tracer.cli.reproduction.beside import beside
    from tracer.cli.reproduction.page import Part, write

    parts = []
    for recipe in chosen:
        own = folder / recipe.name
        if study := studies.get(recipe.name):
            rows = beside(study.rows(own), comparable=asked.scale == "paper" and not asked.small)
            parts.append(Part(recipe, own, rows, study.pictures(own)))
        else:
            parts.append(Part(recipe, own, none=recipe.none_at(asked.scale)))
    write(parts, page, small=asked.small)
    click.echo(f"\npage: {page}", err=asked.as_json)


def _list(known: Mapping[str, Recipe], as_json: bool) -> None:
    if as_json:
        return print_json({name: recipe.about for name, recipe in known.items()})
    click.echo(_table(known))


def _table(known: Mapping[str, Recipe]) -> str:
    """Every study with its line, our own first, then by paper."""
    width = max(map(len, known))
    lines = []
    for paper, title in {"": "", **PAPERS}.items():
        own = [recipe for recipe in known.values() if recipe.paper == paper]
        lines += [f"\n{title}"] if title and own else []
        lines += [f"  {recipe.name:{width}} {recipe.about}" for recipe in own]
    return "\n".join([*lines, f"\n  {ALL:{width}} all recipes of the papers, and a page of them"])


def _pairs(flag: str, words: tuple[str, ...]) -> dict[str, str]:
    """`a=b` -> {a: b}."""
    pairs = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (name and sign):
            raise click.UsageError(f"{flag} {word}: write it as NAME=VALUE")
        pairs[name] = value
    return pairs
