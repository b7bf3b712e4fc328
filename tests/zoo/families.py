"""What works of each family, for `trace models`: read off the tables of docs/models.md, so the two cannot differ."""

from __future__ import annotations

import json
from pathlib import Path

from tests.zoo.table import PAGE, lines_of

FILE = Path(__file__).parents[2] / "tracer" / "denoisers" / "pipeline" / "families.json"
YES, NO = "yes", "no"


def families(page: str, classes: dict[str, str]) -> list[dict[str, str]]:
    """A row for each family, in the order of the page.

    classes: name of a pipeline of the zoo -> its class. A family is traced with several schedulers where it stands on
    the page several times; `null` then names those that allow it.
    """
    found, measured = _table(page, "found"), _table(page, "measured")
    groups: dict[str, list[str]] = {}
    for name, cells in found.items():
        groups.setdefault(cells["family"], []).append(name)
    return [
        {
            "family": family,
            "pipeline": classes[names[0]],
            "mask": _any(measured, names, "`R1S0`"),
            "sinks": _any(measured, names, "`sink-k1@keys=text`", _without_text(found, names)),
            "decomposition": _any(measured, names, "F(x), G(y)"),
            "null": _null([found[name] for name in names]),
        }
        for family, names in groups.items()
    ]


def written(page: str, classes: dict[str, str]) -> str:
    """The file's text."""
    return json.dumps(families(page, classes), indent=1, ensure_ascii=False) + "\n"


def _table(page: str, name: str) -> dict[str, dict[str, str]]:
    """First cell of a line -> all cells by their titles."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines_of(page, name)]
    rows = [[cell.strip() for cell in row] for row in rows]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def _any(measured: dict[str, dict[str, str]], names: list[str], title: str, otherwise: str = NO) -> str:
    return YES if any(name in measured and measured[name][title] != "-" for name in names) else otherwise


def _without_text(found: dict[str, dict[str, str]], names: list[str]) -> str:
    """Sinks of what has no text are keys of the image."""
    return (
        "of image keys" if any(found[name]["tokens"] and "text" not in found[name]["tokens"] for name in names) else NO
    )


def _null(rows: list[dict[str, str]]) -> str:
    can = [row["scheduler"].replace("\\*", "").replace("†", "") for row in rows if row["additive null"] == YES]
    return YES if len(can) == len(rows) else ", ".join(can) if can else NO


def main() -> None:
    """Write the file."""
    from tests.zoo import ZOO

    FILE.write_text(written(PAGE.read_text(), {name: type(entry.make()[0]).__name__ for name, entry in ZOO.items()}))


if __name__ == "__main__":
    main()
