"""docs/papers.md: every recipe of the papers as it came out at embedded scale, written from what its commands left.

A published number and a number of an embedded model never share a table here.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from analysis.common import agreement
from analysis.common.agreement import Estimate
from tracer.cli.reproduction import beside
from tracer.cli.reproduction.beside import Beside
from tracer.cli.reproduction.recipe import PAPERS, RECIPES, SOURCES, Picture, Recipe

LINE = 140
RECORD = "reproduced.json"
"""What a finished study says of itself, in its folder."""


@dataclass(frozen=True)
class Part:
    """One recipe and what came out of it; without rows and pictures where it cannot be run at this scale."""

    recipe: Recipe
    folder: Path
    rows: Sequence[Beside] = ()
    pictures: Sequence[Picture] = ()
    none: str = ""


def write(parts: Sequence[Part], page: Path, *, small: bool) -> None:
    """The page, and the figures beside it in a folder of its name."""
    lines = [*_head(parts, small)]
    for paper, title in PAPERS.items():
        if own := [part for part in parts if part.recipe.paper == paper]:
            lines += ["", f"## {title}", "", SOURCES[paper]]
            for part in own:
                lines += ["", *_part(part, page)]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head(parts: Sequence[Part], small: bool) -> Iterator[str]:
    yield "# The papers beside the embedded models"
    yield ""
    if small:
        yield "> A rehearsal with 3 samples and 5 steps: its numbers mean nothing."
        yield ""
    yield "> The embedded models are small, know one world of 32 x 32 drawings, and are measured by other metrics."
    yield "> No number of theirs can be compared with a published one; what can be looked at is whether patterns show."
    yield ""
    yield "This page is written by `trace reproduce papers`, from recipes that anybody can read and change."
    yield "`trace reproduce NAME` runs one, `--scale paper` with the paper's checkpoint, prompts, seeds and metrics."
    yield ""
    yield "- Brackets are 95% intervals over samples. Sizes, seeds and margins stand in the recipe."
    yield '- *same pattern*: the interval lies on the claimed side; for "within X" the 90% interval lies inside.'
    yield "- *other pattern*: it lies on the other side. *not told*: neither; that is no evidence of either."
    yield "- Every row is judged by itself; over many rows some are seen by chance."
    yield "- A row is what a paper says, or, where the text above it says so, what its reading needs."
    if planned := _planned(parts):
        yield ""
        yield planned
    if any(part.rows for part in parts):
        yield from ("", *_table([_counted(part) for part in parts if part.rows]))


def _counted(part: Part) -> dict[str, str]:
    """A recipe in one line: of the patterns that a paper claims, how many show."""
    seen = Counter(line.pattern for line in part.rows if line.row.claim)
    words = (agreement.SAME, agreement.OTHER, agreement.NOT_TOLD)
    name = part.recipe.name
    return {"recipe": f"[{name}](#{name})", "about": part.recipe.about, **{word: str(seen[word]) for word in words}}


def _part(part: Part, page: Path) -> Iterator[str]:
    recipe = part.recipe
    yield f"### {recipe.name}"
    yield ""
    yield f"{recipe.about[0].upper()}{recipe.about[1:]}{'' if recipe.about.endswith('?') else '.'}"
    yield from _paragraph(recipe.how)
    if recipe.as_published:
        yield from _paragraph(f"`--as-published` follows the paper's code: {recipe.as_published.get('why', '')}")
    if part.none:
        yield from _paragraph(f"Not run at embedded scale: {part.none}.")
    if part.rows and part.rows[0].comparable:
        yield from ("", *_table(beside.shown(part.rows).to_dict("records")))
    else:
        if published := recipe.published():
            rows = [{"published": row.what, "value": beside.written(Estimate.of(row.published))} for row in published]
            yield from ("", *_table(rows))
        if part.rows:
            yield from ("", *_table([_embedded(line) for line in part.rows]))
    if part.rows:
        yield from _paragraph(beside.sentence(part.rows))
    for picture in part.pictures:
        if not Path(picture.file).is_file():  # its row says what is missing
            continue
        yield from ("", f"![{picture.says}]({_beside_page(Path(picture.file), part, page)})")
    if recipe.changed:
        yield from _paragraph(f"**Changed after the plan.** {recipe.changed}")


def _paragraph(text: str) -> Iterator[str]:
    """An empty line and the text, in lines that a diff can show; nothing for no text."""
    if text:
        yield from ("", *textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False))


def _embedded(line: Beside) -> dict[str, str]:
    return {
        "embedded model": line.row.what,
        "value": beside.written(line.ours),
        "claimed": line.row.claim,
        "seen": line.pattern or line.verdict,
    }


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A table in Markdown, its head from the keys of the first row."""
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(row.values())} |"


def _beside_page(figure: Path, part: Part, page: Path) -> str:
    """Copy a figure into the page's folder; its address from the page."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{part.recipe.name}-{'-'.join(figure.relative_to(part.folder).with_suffix('').parts)}{figure.suffix}"
    shutil.copyfile(figure, folder / name)
    return f"{folder.name}/{name}"


def _planned(parts: Sequence[Part]) -> str:
    """The commit whose plan the runs follow, and which recipes have changed since."""
    from tracer.store.provenance import change_before

    begun = [began for part in parts if (began := _began(part.folder)) is not None]
    files = [RECIPES / f"{part.recipe.name}.toml" for part in parts]
    found = change_before([file for file in files if file.is_file()] or files, min(begun)) if begun else None
    if found is None:
        return ""
    commit, changed = found
    since = f"Changed since, and why is said there: {', '.join(file.stem for file in changed)}." if changed else ""
    return f"The plan is commit {commit}, the last of the recipes before the first sample. {since}".strip()


def _began(folder: Path) -> datetime | None:
    record = folder / RECORD
    return datetime.fromisoformat(json.loads(record.read_text())["began"]) if record.is_file() else None
