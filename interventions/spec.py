"""Spec strings: "R4S32@layers=12" <-> SmallWorld(4, 32, scope=Scope(layers=(12,))).

`parse(str(x)) == x` for every value. Every wrong spec is explained here: the part, the reason and a valid example. What
a head means is the families' business, one file each: this file asks them and knows none by name. The values are
re-exported.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import replace

from interventions.changes.registry import ARMS, registered
from interventions.errors import SpecError, spec_error
from interventions.families import (
    Clean,
    Full,
    HubSpoke,
    Intervention,
    KeyRemoval,
    Preferential,
    SmallWorld,
    every_family,
)
from interventions.naming import closest
from interventions.scope import NUMBER, OPTIONS, Scope, option_example, read_number, unknown_option

__all__ = [
    "Clean",
    "Full",
    "HubSpoke",
    "Intervention",
    "KeyRemoval",
    "Preferential",
    "Scope",
    "SmallWorld",
    "SpecError",
    "parse",
]


LONGEST = 2000
"""Letters of a spec."""


def parse(text: str) -> Intervention:
    """Return the intervention that a spec string names; `str()` of it is the canonical spec.

    Grammar: a head (`R4S32`, `D0.25A1`, `K64N8`, `sink-k5-value-layer`, `random-k5`, `random-k5-mass`, `random-k5-any`,
    `bottom-k5`, `clean`, `full`, a change of the network such as `int8`, or one that a family of another distribution
    reads), then optionally `@` and options separated by `;`: layers=6,12,18 (0-based, ranges 4-8 include both ends),
    steps=0:50 (half-open; fractions 0.0:0.2; several windows and single steps 4,6,8:12), pause=10:20 (not at these),
    heads=0,2, queries, keys, strength, source, draw, fill. Changes of the network may be joined: `int8+cache2`.

    Raises `SpecError`.
    """
    if not isinstance(text, str):
        raise spec_error(f"spec {text!r}", "a spec is a string", "R4S32")
    if len(text) > LONGEST:
        raise spec_error(f"spec {text[:40]!r}…", f"it has {len(text)} letters, a spec has at most {LONGEST}", "R4S32")
    if not text.isascii():
        strange = next(letter for letter in text if not letter.isascii())
        raise spec_error(f"spec {text!r}", f"{strange!r} is no plain letter or digit", "R4S32")
    parts = re.split(r"\+(?=[A-Za-z])", text)
    if len(parts) > 1:
        from interventions.changes.together import Together

        return Together(tuple(parse(part) for part in parts))
    head, at, options = (part.strip() for part in text.partition("@"))
    try:
        scope = _scope(options) if at else Scope()
        if head:
            return _read(head, scope)
    except SpecError as error:
        raise error.within(f"spec {text.strip()!r}") from None
    raise spec_error("spec ''", "the intervention is missing", "R4S32")


def _read(head: str, scope: Scope) -> Intervention:
    """Return the intervention of a head under a scope: the first family that can read it has it."""
    for family in every_family():
        try:
            value = family.read(head)
            if value is not None:
                return replace(value, scope=scope)
        except SpecError:
            raise
        except Exception as error:  # of a family that does not keep to `SpecError`
            why = f"the family {family.__name__} fails on it with {type(error).__name__}: {error}"
            raise spec_error(f"head {head!r}", why, family.example) from error
    if (value := registered(head)) is not None:
        return replace(value, scope=scope)
    raise _unknown_head(head)


def _unknown_head(head: str) -> SpecError:
    """Return the error for a head of no family, with what was probably meant."""
    families = list(every_family())
    for family in families:
        if meant := family.meant(head):
            likely, why = meant
            return spec_error(f"head {head!r}", f"{why}; did you mean {likely}?", likely)
    heads = [*(example for family in families for example in family.heads), *ARMS]
    likely = closest(head, heads)
    hint = f"; did you mean {likely}?" if likely else "."
    why = f"no intervention is written so{hint} Known are {', '.join(heads)}"
    return spec_error(f"head {head!r}", why, likely or "R4S32")


def _scope(text: str) -> Scope:
    """Return the scope of the part behind the @."""
    return Scope(**options(text))  # type: ignore[arg-type]


def options(text: str) -> dict[str, object]:
    """Return the options of a scope by name, as the part behind the @ writes them. Raises `SpecError`."""
    if not text.strip():
        raise spec_error("'@'", "nothing follows it", "R4S32@layers=6,12,18")
    values: dict[str, object] = {}
    for part in text.split(";"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name and not equals:
            raise spec_error("';'", "an option is missing beside it", "layers=6,12,18;steps=0:50")
        if name not in OPTIONS:
            raise unknown_option(name)
        if not value:
            raise spec_error(f"option {name}", "its value is missing", option_example(name))
        if name in values:
            raise spec_error(f"option {name}", "it is given twice", option_example(name))
        if "=" in value or "@" in value:
            raise spec_error(f"{name}={value}", "options are separated by ';'", "layers=6,12,18;steps=0:50")
        values[name] = _OPTION_READERS.get(name, str)(value)
    return values


def _read_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read 1,4-8,12 as numbers of layers or of heads."""
    numbers: list[int] = []
    example, each = option_example(option), option[:-1]
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            why = f"{part.strip()!r} is no 0-based {each} or range of {option}"
            raise spec_error(f"{option}={text}", why, f"{example} or {option}=4-8")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise spec_error(f"{option}={text}", f"the range {first}-{last} is reversed", f"{option}={last}-{first}")
        if last - first > 10_000:
            raise spec_error(f"{option}={text}", f"no model has that many {option}", f"{option}=4-8")
        numbers.extend(range(first, last + 1))
    return tuple(numbers)


def _read_steps(text: str) -> object:
    """Read 0:50 as ints, 0.0:0.2 as fractions, and 4,6,8:12 as several windows."""
    parts = text.split(",")
    several = [_read_window(text, part.strip()) for part in parts]
    return several if len(parts) > 1 else several[0]


def _read_window(text: str, part: str) -> tuple[float, float]:
    match = re.fullmatch(rf"{NUMBER}\s*:\s*{NUMBER}", part)
    if match:
        return read_number(match[1]), read_number(match[2])
    if re.fullmatch(r"\d+", part) and "," in text:
        return int(part), int(part) + 1
    raise spec_error(f"steps={text}", "a window is start:stop, the stop not included", "steps=0:50 or steps=0.0:0.2")


def _read_strength(text: str) -> float:
    """Read a dose."""
    if not re.fullmatch(NUMBER, text):
        raise spec_error(f"strength={text}", "it must be a number from 0 to 1", "strength=0.3")
    return float(text)


_OPTION_READERS: dict[str, Callable[[str], object]] = {
    "layers": functools.partial(_read_numbers, "layers"),
    "steps": _read_steps,
    "pause": _read_steps,
    "heads": functools.partial(_read_numbers, "heads"),
    "strength": _read_strength,
}
