"""What an arm is, as coordinates on `arm`: data that an analysis reads, so that it never parses a spec.

The meaning of a spec is the grammar's (`interventions.arms`); here stands which coordinates a run must have, and that
they are complete when it is created.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracer.store.schema import RunError

Coordinate = tuple[Sequence[str], Any, Mapping[str, Any]]
"""Dims, values and attributes of a coordinate."""

ARM_COORDINATES: dict[str, tuple[type, str]] = {
    "arm_role": (str, "what the arm is for: clean, floor, control, or cell"),
    "arm_family": (str, "family of the intervention"),
    "arm_parameters": (str, "the family's own numbers, as JSON"),
    "arm_mask": (str, "the spec without steps, pause and strength: what the arm is a part or a dose of"),
    "arm_whole": (bool, "whether the spec names neither steps nor pause"),
    "arm_start": (int, "first step on which the arm acts"),
    "arm_stop": (int, "step before which the arm stops acting"),
    "arm_pause_start": (int, "first step of the pause; equal to arm_pause_stop where there is none"),
    "arm_pause_stop": (int, "step before which the pause ends"),
    "arm_strength": (float, "dose of the intervention, 1 is full"),
    "arm_layers": (str, "layers on which the arm acts, as ranges; empty for all"),
    "arm_match": (str, "what an arm that removes keys and its control share; empty for other arms"),
    "arm_noun": (str, "what sentences call the intervention: mask, removal, cache"),
    "arm_acts": (str, "what each part of the arm does, in which layers and steps, as JSON"),
}
"""Name -> type and long_name of every coordinate that says what an arm is."""
LATER = ("arm_noun", "arm_acts")
"""Those that stores of version 2 may lack, because they are older."""


def with_arm_coordinates(coords: Mapping[str, Coordinate], steps: int) -> dict[str, Coordinate]:
    """The coordinates of a run with those of its arms: the ones given, or else computed from the spec strings.

    steps: of the run, for windows given as fractions. Raises RunError where some are given and some are not, and for
    arms that are no specs.
    """
    given = [name for name in ARM_COORDINATES if name in coords]
    if not given:
        return {**coords, **computed(coords["arm"][1], steps)}
    if lacking := [name for name in ARM_COORDINATES if name not in coords]:
        raise RunError(
            f"coords has {given[0]} and lacks {', '.join(lacking)}; give all coordinates of the arms, or none"
        )
    typed = {
        name: (coords[name][0], np.asarray(coords[name][1], _dtype(kind)), {"long_name": text, **coords[name][2]})
        for name, (kind, text) in ARM_COORDINATES.items()
    }
    return {**coords, **typed}


def computed(specs: Sequence[Any], steps: int) -> dict[str, Coordinate]:
    """The coordinates of these arms, from their spec strings; RunError for one that is no spec."""
    from interventions.arms import arm_coordinates
    from interventions.errors import SpecError
    from interventions.spec import parse

    rows = []
    for spec in map(str, specs):
        try:
            rows.append(arm_coordinates(parse(spec), steps))
        except SpecError as error:
            raise RunError(f"arm {spec!r} is no spec, so its coordinates have to be given: {error}") from error
    return {
        name: (("arm",), np.array([row[name] for row in rows], _dtype(kind)), {"long_name": text, "units": "1"})
        for name, (kind, text) in ARM_COORDINATES.items()
    }


def _dtype(kind: type) -> Any:
    return object if kind is str else kind
