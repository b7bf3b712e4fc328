"""A folder to publish: the list of runs and one self-contained page for each, with nothing that needs a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tracer.cli.listing import Line
from tracer.cli.viewing import pages
from tracer.cli.viewing.catalogue import Catalogue
from tracer.store import RunError
from tracer.store.durable import replacing
from tracer.store.places import PlaceError, check_folder, occupied


def write(catalogue: Catalogue, folder: Path, where: str, tell: Callable[[str], None]) -> list[Path]:
    """Write the pages into a new or empty folder; the list comes last, and first in what is returned.

    A run of which no page can be made is listed with the reason. Raises PlaceError for a folder that is not empty.
    """
    from analysis import report

    check(folder)
    lines = catalogue.lines()
    files = page_names([line for line in lines if line.kind == "run" and not line.problem])
    reasons: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        if line.name not in files:
            continue
        tell(f"{files[line.name]}: {line.name}")
        try:
            _put(folder / files[line.name], report(catalogue.open(line.name).tree))
        except RunError as error:
            reasons[line.name] = str(error)
    made = {name: file for name, file in files.items() if name not in reasons}
    _put(folder / "index.html", index(lines, where, made, reasons))
    return [folder / "index.html", *(folder / file for file in made.values())]


def check(folder: Path) -> None:
    """Raise PlaceError unless the folder is new or empty and can be written to."""
    if occupied(folder):
        raise PlaceError(f"{folder} is there and not empty: name a new folder, for example --bundle {folder}-2")
    check_folder(folder)


def index(lines: Sequence[Line], where: str, files: dict[str, str], reasons: dict[str, str]) -> str:
    """The list as a page of its own; reasons: why a run has no page."""
    body = pages.index(lines, where, lambda line: files.get(line.name), compare=False, reasons=reasons)
    head = f'<style>{pages.asset("pages.css")}</style><script type="module">{pages.asset("list.js")}</script>'
    return pages.page("Runs", body, head=head)


def page_names(lines: Sequence[Line]) -> dict[str, str]:
    """Run -> the name of its page: letters, digits, dots, dashes of its name, told apart by a number where alike."""
    names: dict[str, str] = {}
    taken = {"index.html"}
    for line in lines:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", line.name).strip("-.")[:100] or "run"
        file = next(
            name for k in range(1, len(taken) + 2) if (name := f"{stem}{f'-{k}' if k > 1 else ''}.html") not in taken
        )
        taken.add(file)
        names[line.name] = file
    return names


def _put(file: Path, text: str) -> None:
    with replacing(file) as aside:
        aside.write_text(text, encoding="utf-8", errors="replace")
