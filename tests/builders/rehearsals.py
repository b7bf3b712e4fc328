"""A recipe of a paper, run in small: what its rows pick is read from the tables that its commands wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from tracer.cli.main import main
from tracer.cli.reproduction.beside import beside
from tracer.cli.reproduction.recipe import SCALES, recipes


def rehearsed(
    name: str,
    out: Path,
    *,
    scale: str = SCALES[0],
    given: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None,
    as_published: bool = False,
) -> dict[str, float]:
    """What the table of published values says of every row, by its `what`, after all commands have run in small.

    Raises AssertionError with the output of a command that failed, and for a figure that is not there. Values may be
    NaN: three samples and five steps do not give every one.
    """
    typed = ["reproduce", name, "--small", "--scale", scale, "--out", str(out), *["--as-published"] * as_published]
    for option, pairs in (("--with", given or {}), ("--weights", weights or {})):
        for word, value in pairs.items():
            typed += [option, f"{word}={value}"]
    result = CliRunner().invoke(main, typed)
    assert result.exit_code == 0, result.output
    study = recipes()[name].at(scale, given, as_published)
    missing = [picture.file for picture in study.pictures(out) if not Path(picture.file).is_file()]
    assert not missing, f"{name} draws no {missing[0]}"
    return {line.row.what: line.ours.value for line in beside(study.rows(out), comparable=False)}


def unread(found: Mapping[str, float]) -> list[str]:
    """The rows without a number."""
    return [what for what, value in found.items() if not math.isfinite(value)]
