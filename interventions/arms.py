"""The coordinates of an arm: what its spec says, as plain data that a store keeps and an analysis reads.

A run stores them along `arm` when it is created, so nobody who reads it needs the grammar. What a family has to say
(family, parameters, role, match) it says itself; the rest comes from the scope.
"""

import json
from typing import Any

from interventions.families.base import Intervention
from interventions.rules import rows
from interventions.scope import hull, layer_ranges, span

ArmCoordinates = dict[str, str | int | float | bool]


def arm_coordinates(intervention: Intervention, steps: int) -> ArmCoordinates:
    """Return the coordinates of an arm in a run of so many steps, always these fourteen.

    arm_role: "clean", "floor" (the all-true mask), "control" (random or bottom keys), "cell" (everything else).
    arm_family: "small-world", "local", "sink-keys", ...; arm_parameters: the family's own fields as JSON, keys sorted.
    arm_mask: the canonical spec without steps, pause and strength: what the arm is a part or a dose of.
    arm_whole: whether the spec names neither steps nor pause.
    arm_start, arm_stop: the half-open window of `steps=`, fractions rounded half up; 0 and `steps` where none is named.
    arm_pause_start, arm_pause_stop: the same of `pause=`; 0 and 0 where none is named.
    arm_strength: the dose. arm_layers: the layers as ranges, "1,4-8"; empty for all.
    arm_match: what a sink arm and its control share, the spec without the kind, source and draw; empty for arms that
        remove no keys.
    arm_noun: what sentences call it, "mask", "removal", "cache".
    arm_acts: what each part does, one but of arms joined by +, as JSON: {"head": its spec without steps, pause, dose
        and layers, "layers": [0, 1], none for all, "windows": [[4, 5], [6, 8]] in which it acts, "remembers":
        whether it reuses what earlier steps left}.
    """
    scope = intervention.acting
    window = intervention.extent(steps)
    pause = range(0) if scope.pause is None else hull(span(scope.pause, steps))
    return {
        "arm_role": intervention.role,
        "arm_family": intervention.family,
        "arm_parameters": json.dumps(intervention.parameters, sort_keys=True, default=_plain),
        "arm_mask": intervention.basis,
        "arm_whole": intervention.whole,
        "arm_start": window.start,
        "arm_stop": window.stop,
        "arm_pause_start": pause.start,
        "arm_pause_stop": pause.stop,
        "arm_strength": scope.strength,
        "arm_layers": "" if scope.layers is None else layer_ranges(scope.layers),
        "arm_match": intervention.match,
        "arm_noun": intervention.noun,
        "arm_acts": json.dumps([_act(part, steps) for part in getattr(intervention, "parts", (intervention,))]),
    }


def _act(part: Intervention, steps: int) -> dict[str, object]:
    return {
        "head": str(part.at(steps=None, pause=None, strength=1.0, layers=None)),
        "layers": list(part.scope.layers or ()),
        "windows": rows(part.scope.window(steps)),
        "remembers": bool(getattr(part, "remembers", False)),
    }


def _plain(value: Any) -> Any:
    """A numpy number as a plain one, anything else as text: a family's fields are its own choice."""
    return value.item() if hasattr(value, "item") else str(value)
