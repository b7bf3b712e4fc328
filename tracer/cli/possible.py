"""Which analyses a run can support, from what it records and what its arms are; and the commands that ask for them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

FIRST = ("verdict", "growth", "sinks")
"""What is asked first of a run, in this order; everything else only where none of these is possible."""


def analyses(recorded: Collection[str], arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the measures that this one run supports, in the order of the registry.

    recorded: all records, those that others bring along included. arms: the arm coordinates of every arm, as
    `interventions.arm_coordinates` gives them.
    """
    from analysis import MEASURES
    from analysis.measure import about

    shaped = _shapes(arms)
    return [
        name
        for name, measure in ((name, about(name)) for name in MEASURES)
        if measure.reads in ("run", "runs") and measure.beyond in shaped and set(measure.needs) <= set(recorded)
    ]


def _shapes(arms: Sequence[Mapping[str, Any]]) -> set[str]:
    """What these arms offer beyond being masks, in the words of `Measure.beyond`."""
    masked = [arm for arm in arms if arm["arm_role"] not in ("clean", "floor")]
    windows = [arm["arm_mask"] for arm in masked if not arm["arm_whole"]]
    doses = [arm for arm in masked if arm["arm_strength"] != 1]
    twice = len(windows) > len(set(windows))
    offered = {"arms": len(masked) > 1, "parts": windows or doses, "windows": twice, "cells": twice}
    return {"", *(shape for shape, there in offered.items() if there)}


def look_command(path: Path) -> str:
    """The command that shows a run, or the runs of a folder, in a browser."""
    return f"trace view {shlex.quote(str(path))}"


def next_commands(path: Path, names: Sequence[str]) -> str:
    """The commands to type after a run, on one line that a shell takes whole."""
    asked = [name for name in FIRST if name in names] or list(names[:1])
    run = shlex.quote(str(path))
    return "; ".join([*(f"trace analyze {name} {run}" for name in asked), f"trace report {run}"])
