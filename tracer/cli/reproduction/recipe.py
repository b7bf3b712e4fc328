"""A recipe: a readable file that says what a study is about, its commands, and the published values it is set beside.

docs/papers.md and the files themselves (`tracer/cli/recipes/*.toml`) show the form. Nothing is run here.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any

from analysis.common.agreement import read_claim
from interventions.errors import InputError
from interventions.naming import unknown
from tracer.store.places import nearest_path

RECIPES = Path(__file__).parent.parent / "recipes"
SCALES = ("embedded", "paper")
_TABLES = {"embedded": "embedded", "paper": "paper-scale"}
"""Where a recipe file keeps what belongs to a scale."""
PAPERS = {
    "probing": "Probing information flow in vision transformers through controlled attention perturbation "
    "(Sci4DL 2026)",
    "sinks": "Attention Sinks in Diffusion Transformers: A Causal Analysis (ICML 2026)",
    "rope2sink": "From a Spiral to a Sink (under review)",
}
SOURCES = {
    "probing": "Published values: its Table 1, Figure 1 and text.",
    "sinks": "Published values: read from the paper's released code and its documents; of the paper itself only the "
    "abstract is held here.",
    "rope2sink": "Claims: as its project page words them.",
}
_NESTED = 8  # words may hold words, so deep at most


class RecipeError(InputError):
    """A recipe cannot be run as asked, or its file is wrong; the message says what is allowed."""


@dataclass(frozen=True)
class Row:
    """One line of the table of published values beside ours.

    table: a CSV that an analysis writes; pick: column -> text of its one line. columns: (low, value, high), or one
    without an interval. published: (low, value, high), (value,) or (). claim: what the paper says of it as a pattern.
    margin: how far ours may be from the published value and still agree. only: the scale that has this row, or "". With
    neither published nor claim a row only reports, which is for studies of our own.
    """

    what: str
    table: str
    pick: Mapping[str, str]
    columns: tuple[str, ...] = ()
    published: tuple[float, ...] = ()
    claim: str = ""
    margin: float = 0.0
    only: str = ""

    def __post_init__(self) -> None:
        """Refuse a row whose numbers or claim cannot be read."""
        if len(self.published) not in (0, 1, 3) or len(self.columns) not in (0, 1, 3):
            raise RecipeError(f'row "{self.what}": published and columns have one entry, or low, value and high')
        if self.published and self.margin <= 0:
            raise RecipeError(f'row "{self.what}": a published value needs a margin, for example margin = 0.05')
        if self.only not in ("", *SCALES):
            raise RecipeError(f'row "{self.what}": only = "{self.only}": it is one of {", ".join(SCALES)}')
        if self.claim:
            read_claim(self.claim)


@dataclass(frozen=True)
class Picture:
    """A figure that the commands draw, and one sentence of what it shows."""

    file: str
    says: str


@dataclass(frozen=True)
class Study:
    """A recipe at one scale, all words but `$out` filled in."""

    recipe: Recipe
    scale: str
    words: Mapping[str, str]
    as_published: bool = False

    def lines(self, out: Path) -> list[list[str]]:
        """The words of every command after `trace`, written under `out`; braces as in a shell."""
        values = self._values(shlex.quote(str(out)))
        filled = [_filled(line, values, self.recipe) for line in self.recipe.commands_at(self.scale)]
        return [list(chain.from_iterable(map(braces, shlex.split(line)))) for line in filled]

    def rows(self, out: Path) -> list[Row]:
        """The rows that exist at this scale."""
        values = self._values(str(out))

        def text(given: str) -> str:
            return _filled(given, values, self.recipe)

        return [
            replace(
                row,
                what=text(row.what),
                table=text(row.table),
                pick={column: text(value) for column, value in row.pick.items()},
                columns=tuple(filter(None, map(text, row.columns))),
            )
            for row in self.recipe.rows
            if row.only in ("", self.scale)
        ]

    def pictures(self, out: Path) -> list[Picture]:
        """The figures, as paths."""
        values = self._values(str(out))
        pictures = self.recipe.pictures
        return [Picture(*(_filled(text, values, self.recipe) for text in (each.file, each.says))) for each in pictures]

    def _values(self, out: str) -> dict[str, str]:
        return {**self.words, "out": out}


@dataclass(frozen=True)
class Recipe:
    """A study as its file has it; `at` fills in the words of a scale.

    scales: words of each scale; `commands` among them replaces the list, `none` says why it cannot be run there. needs:
    words that the user gives at paper scale, and what each is. as_published: words that replace others, `why` among
    them. paper: a key of `PAPERS`, or "" for a study of our own.
    """

    name: str
    about: str
    commands: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    as_published: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    pictures: tuple[Picture, ...] = ()
    paper: str = ""
    how: str = ""
    changed: str = ""

    def commands_at(self, scale: str) -> tuple[str, ...]:
        """The commands of a scale."""
        own = self.scales.get(scale, {}).get("commands")
        return self.commands if own is None else _lines(own)

    def none_at(self, scale: str) -> str:
        """Why there is nothing to run at this scale; "" where there is."""
        if scale == "paper" and "paper" not in self.scales:
            return "it is a study of the embedded models"
        return self.scales.get(scale, {}).get("none", "")

    def published(self) -> list[Row]:
        """The rows that have published numbers, named as at paper scale; what the user gives stands as its name."""
        words = {**self.words, **{need: need for need in self.needs}, **self.scales.get("paper", {})}
        rows = Study(self, "paper", words).rows(Path("."))
        return [row for row in rows if row.published]

    def known_words(self, scale: str) -> set[str]:
        """The words that a user may give at a scale."""
        return ({*self.words, *self.scales.get(scale, {})} | set(self._needs(scale))) - {"commands", "none"}

    def _needs(self, scale: str) -> Mapping[str, str]:
        return self.needs if scale == "paper" else {}

    def at(self, scale: str = "embedded", given: Mapping[str, str] | None = None, as_published: bool = False) -> Study:
        """The study at a scale, with the user's words. Raises RecipeError for what is missing, unknown or not there."""
        if reason := self.none_at(scale):
            raise RecipeError(f"{self.name} at {scale} scale: {reason}")
        if as_published and not self.as_published:
            raise RecipeError(f"{self.name} --as-published: nothing that is known of the paper's code differs here")
        words = {**self.words, **self.scales.get(scale, {})}
        words |= self.as_published if as_published else {}
        needs, given = self._needs(scale), given or {}
        known = sorted(self.known_words(scale))
        for word in given:
            if word not in known:
                raise RecipeError(unknown(f"--with {word}=...: {self.name} has no such word", word, known))
        if lacking := {word: what for word, what in needs.items() if word not in given}:
            shown = "\n".join(f"  --with {word}=PATH   {what}" for word, what in lacking.items())
            raise RecipeError(f"{self.name} at paper scale needs what does not ship:\n{shown}")
        return Study(self, scale, {**words, **given}, as_published)


def recipes() -> dict[str, Recipe]:
    """Every recipe that ships, by name."""
    return {file.stem: read(file) for file in sorted(RECIPES.glob("*.toml"))}


def read(file: Path) -> Recipe:
    """A recipe from its file. Raises RecipeError for a table, a row or a paper that does not exist."""
    try:
        data: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        meant = f"did you mean {near}? " if (near := nearest_path(file)) else ""
        raise RecipeError(f"no recipe at {file}: {meant}`trace reproduce --list` says which ship") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file}: {error}") from None
    if "about" not in data:
        raise RecipeError(f'{file.name}: say in one line what it is about, about = "..."')
    known = {"about", "paper", "how", "changed", "commands", "words", "needs", "as-published", "row", "figure"}
    if strange := set(data) - known - set(_TABLES.values()):
        raise RecipeError(f"{file.name}: {strange.pop()!r} is no part of a recipe")
    if data.get("paper", "") not in ("", *PAPERS):
        raise RecipeError(f"{file.name}: paper = {data['paper']!r}; it is one of {', '.join(PAPERS)}")
    return Recipe(
        name=file.stem,
        about=data["about"],
        commands=_lines(data.get("commands", "")),
        words=data.get("words", {}),
        scales={scale: data[table] for scale, table in _TABLES.items() if table in data},
        needs=data.get("needs", {}),
        as_published=data.get("as-published", {}),
        rows=tuple(_row(row, file, "paper" in data) for row in data.get("row", ())),
        pictures=tuple(Picture(**each) for each in data.get("figure", ())),
        paper=data.get("paper", ""),
        how=_prose(data.get("how", "")),
        changed=_prose(data.get("changed", "")),
    )


def _row(row: dict[str, Any], file: Path, of_paper: bool) -> Row:
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    if of_paper and not {"published", "claim"} & set(row):
        raise RecipeError(f'{file.name}: row "{row.get("what")}": give what is published, what is claimed, or both')
    try:
        return Row(**given)
    except (TypeError, InputError) as error:
        raise RecipeError(f"{file.name}: {error}") from None


def _lines(commands: str) -> tuple[str, ...]:
    """Commands without empty lines and comments; a backslash at the end of a line goes on in the next."""
    lines = (line.strip() for line in commands.replace("\\\n", " ").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _prose(text: str) -> str:
    return " ".join(text.split())


def _filled(text: str, values: Mapping[str, str], recipe: Recipe) -> str:
    """The text with its words; words may hold words."""
    for _ in range(_NESTED):
        if "$" not in text:
            return text
        try:
            text = Template(text).substitute(values)
        except (KeyError, ValueError) as error:
            raise RecipeError(f"{recipe.name}: no word {error} for: {text}") from None
    raise RecipeError(f"{recipe.name}: its words hold each other: {text}")


def braces(word: str) -> list[str]:
    """`T{0050,0100}` -> T0050, T0100; a word without braces is itself."""
    match = re.fullmatch(r"(.*?)\{([^{}]*)\}(.*)", word)
    if match is None:
        return [word]
    before, middle, after = match.groups()
    return [f"{before}{part}{after}" for part in middle.split(",")]
