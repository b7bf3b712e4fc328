"""What an arm's spec says, read as text: the oracle of `interventions.arms`, and the meaning that version 1 had.

Independent of the grammar: a spec is cut at "@", ";" and "=" and nothing else is known. Takes canonical specs.
"""

import math
import re
from fractions import Fraction

_REMOVAL = re.compile(r"(sink|random|bottom)-k(\d+)(-mass|-any)?(-value)?(-layer)?$")
_OWN_OPTIONS = {"sink": ("source", "draw"), "random": ("draw", "source")}


def split(arm):
    """ "R4S32@steps=0:5" -> ("R4S32", {"steps": "0:5"})."""
    head, _, scope = arm.partition("@")
    return head, dict(part.split("=", 1) for part in scope.split(";") if part)


def without(arm, *options):
    """The spec string without some scope options: the arm it is a part of."""
    head, scope = split(arm)
    rest = [f"{key}={value}" for key, value in scope.items() if key not in options]
    return head + ("@" + ";".join(rest) if rest else "")


def window(arm, steps):
    """The steps it acts on, of a run with that many; an arm that pauses acts on no single window: an empty one."""
    scope = split(arm)[1]
    if "pause" in scope:
        return range(0)
    return _steps(scope["steps"], steps) if "steps" in scope else range(steps)


def pause(arm, steps):
    """The steps that an arm leaves out; empty for most."""
    scope = split(arm)[1]
    return _steps(scope["pause"], steps) if "pause" in scope else range(0)


def _steps(text, steps):
    low, high = (_edge(part, steps) for part in text.split(":"))
    return range(min(low, steps), min(high, steps))


def _edge(text, steps):
    return int(text) if text.isdigit() else math.floor(Fraction(text) * steps + Fraction(1, 2))


def dose(arm):
    """The dose, 1 if the spec names none."""
    return float(split(arm)[1].get("strength", 1))


def is_cell(arm):
    """Whether an arm is a condition of its own: neither limited to some steps nor at a part of the dose."""
    return not {"steps", "pause"} & split(arm)[1].keys() and dose(arm) == 1


def is_small_world(arm):
    """Whether an arm is an unscoped small-world mask with both a ball and shortcuts."""
    return re.fullmatch(r"R[1-9]\d*S[1-9]\d*", arm) is not None


def pairs(arms):
    """(sink arm, random arm) that match in path, scope and dose: one of each way to match, the exact one first."""
    matched = []
    for arm in arms:
        if kind(arm) == "sink":
            same = [other for other in arms if kind(other) == "random" and _rest(other) == _rest(arm)]
            for way in (None, "-mass", "-any"):
                alike = [other for other in same if matching(other) == way]
                exact = [other for other in alike if other.replace(way or "-k", "" if way else "-k") == _twin(arm)]
                matched += [(arm, other) for other in (exact or alike)[:1]]
    return matched


def kind(arm):
    """sink, random or bottom; None for an arm that removes no keys."""
    match = _REMOVAL.match(split(arm)[0])
    return match[1] if match else None


def matching(arm):
    """-mass, -any, or None: what the flag behind the count says."""
    return _REMOVAL.match(split(arm)[0])[3]


def _twin(sink):
    return "random" + sink.removeprefix("sink")


def _rest(arm):
    head, scope = split(arm)
    head = head.replace(matching(arm) or "@", "")
    rest = {key: value for key, value in scope.items() if key not in _OWN_OPTIONS.get(kind(arm), ())}
    return head.removeprefix(kind(arm)), tuple(sorted(rest.items()))
