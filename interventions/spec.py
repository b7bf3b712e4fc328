"""Spec strings: "R4S32@layers=12" <-> SmallWorld(4, 32, scope=Scope(layers=(12,))).

`parse(str(x)) == x` for every value. Every wrong spec is explained here: the part, the reason and a valid example. The
values themselves live in `families` and `scope` and are re-exported.
"""

import re

from interventions.errors import SpecError, spec_error
from interventions.families import Clean, Full, HubSpoke, Intervention, KeyRemoval, Preferential, SmallWorld
from interventions.scope import OPTIONS, Scope, closest, option_example, unknown_option

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

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_SMALL_WORLD = re.compile(f"R{_NUMBER}S{_NUMBER}")
_PREFERENTIAL = re.compile(f"D{_NUMBER}A{_NUMBER}")
_HUB_SPOKE = re.compile(f"K{_NUMBER}(?:N{_NUMBER})?(-oneway)?")
_KEY_REMOVAL = re.compile(f"(sink|random|bottom)-k{_NUMBER}((?:-[a-z]+)*)")
_HEADS = ("R4S32", "D0.25A1", "K64N8", "sink-k5", "sink-k5-value", "random-k5", "bottom-k5", "clean", "full")
_NEARLY = (  # what people type, and what they mean
    (rf"R{_NUMBER}", r"R\1S0", "shortcuts are missing"),
    (rf"S{_NUMBER}(?:R{_NUMBER})?", r"R\2S\1", "the radius comes first"),
    (rf"R{_NUMBER}x?S{_NUMBER}", r"R\1S\2", "write it without separators, in capitals"),
    (rf"D{_NUMBER}", r"D\1A1", "the exponent is missing"),
    (rf"A{_NUMBER}D{_NUMBER}", r"D\2A\1", "the density comes first"),
    (rf"D{_NUMBER}[^\d.]*A{_NUMBER}", r"D\1A\2", "write it without separators, in capitals"),
    (rf"K{_NUMBER}[^\d.]*N{_NUMBER}", r"K\1N\2", "write it without separators, in capitals"),
    (rf"K{_NUMBER}", r"K\1", "write it in capitals"),
    (r"(sink|random|bottom)s?[-_ ]?k?[-_ =]?(\d+)(.*)", r"\1-k\2\3", "the count is written -k5"),
    (r"(sink|random|bottom)s?", r"\1-k5", "the count is missing"),
)


def parse(text: str) -> Intervention:
    """Return the intervention that a spec string names; `str()` of it is the canonical spec.

    Grammar: a head (`R4S32`, `D0.25A1`, `K64N8`, `sink-k5-value-layer`, `random-k5`, `bottom-k5`, `clean`, `full`),
    then optionally `@` and options separated by `;`: layers=6,12,18 (0-based, ranges 4-8 include both ends), steps=0:50
    (half-open; fractions 0.0:0.2), pause=10:20 (not at these), queries, keys, strength, source, draw, fill.
    Raises `SpecError`.
    """
    if not isinstance(text, str):
        raise spec_error(f"spec {text!r}", "a spec is a string", "R4S32")
    head, at, options = text.strip().partition("@")
    try:
        return _head(head.strip(), _scope(options) if at else Scope())
    except SpecError as error:
        if str(error).startswith("spec "):
            raise
        raise SpecError(f"spec {text.strip()!r}: {error}") from None


def _head(head: str, scope: Scope) -> Intervention:
    """Return the intervention of a head under a scope."""
    if not head:
        raise spec_error("spec ''", "the intervention is missing", "R4S32")
    if head in ("clean", "full"):
        return (Clean if head == "clean" else Full)(scope=scope)
    if found := _SMALL_WORLD.fullmatch(head):
        return SmallWorld(_value(found[1]), _value(found[2]), scope=scope)  # type: ignore[arg-type]
    if found := _PREFERENTIAL.fullmatch(head):
        return Preferential(float(found[1]), float(found[2]), scope=scope)
    if found := _HUB_SPOKE.fullmatch(head):
        nearest = _value(found[2] or "1")
        return HubSpoke(_value(found[1]), nearest, not found[3], scope=scope)  # type: ignore[arg-type]
    if found := _KEY_REMOVAL.fullmatch(head):
        flags = found[3].split("-")[1:]
        for flag in flags:
            if flag not in ("value", "layer") or flags.count(flag) > 1:
                why = (
                    "it stands there twice" if flags.count(flag) > 1 else "only -value and -layer may follow the count"
                )
                raise spec_error(f"-{flag}", why, f"{found[1]}-k{found[2]}-value-layer")
        path, per = ("value" if "value" in flags else "score"), ("layer" if "layer" in flags else "head")
        return KeyRemoval(found[1], _value(found[2]), path, per, scope=scope)  # type: ignore[arg-type]
    raise _unknown_head(head)


def _value(text: str) -> int | float:
    """Read a number, as an int where it is written as one, so that 2.5 hubs can be refused by name."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _unknown_head(head: str) -> SpecError:
    """Return the error for a head of no family, with what was probably meant."""
    for pattern, meant, why in _NEARLY:
        if found := re.fullmatch(pattern, head, re.IGNORECASE):
            likely = meant
            for place, group in enumerate(found.groups(default="0"), start=1):
                likely = likely.replace(f"\\{place}", group)
            likely = likely.lower() if likely[0] in "SBsb" or likely.lower().startswith("random") else likely
            return spec_error(f"head {head!r}", f"{why}; did you mean {likely}?", likely)
    likely = closest(head, _HEADS)
    hint = f"; did you mean {likely}?" if likely else "."
    why = f"no intervention is written so{hint} Known are {', '.join(_HEADS)}"
    return spec_error(f"head {head!r}", why, likely or "R4S32")


def _scope(text: str) -> Scope:
    """Return the scope of the part behind the @."""
    if not text.strip():
        raise spec_error("'@'", "nothing follows it", "R4S32@layers=6,12,18")
    found: dict[str, object] = {}
    for part in text.split(";"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name and not equals:
            raise spec_error("';'", "an option is missing beside it", "layers=6,12,18;steps=0:50")
        if name not in OPTIONS:
            raise unknown_option(name)
        if not value:
            raise spec_error(f"option {name}", "its value is missing", option_example(name))
        if name in found:
            raise spec_error(f"option {name}", "it is given twice", option_example(name))
        if "=" in value or "@" in value:
            raise spec_error(f"{name}={value}", "options are separated by ';'", "layers=6,12,18;steps=0:50")
        found[name] = _OPTION_READERS.get(name, str)(value)
    return Scope(**found)  # type: ignore[arg-type]


def _read_layers(text: str) -> tuple[int, ...]:
    """Read 1,4-8,12 as layer numbers."""
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not found:
            raise spec_error(
                f"layers={text}",
                f"{part.strip()!r} is no 0-based layer or range of layers",
                "layers=6,12,18 or layers=4-8",
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise spec_error(f"layers={text}", f"the range {first}-{last} is reversed", f"layers={last}-{first}")
        if last - first > 10_000:
            raise spec_error(f"layers={text}", "no model has that many layers", "layers=4-8")
        layers.extend(range(first, last + 1))
    return tuple(layers)


def _read_steps(text: str) -> tuple[float, float]:
    """Read 0:50 as ints and 0.0:0.2 as fractions."""
    found = re.fullmatch(rf"{_NUMBER}\s*:\s*{_NUMBER}", text)
    if not found:
        raise spec_error(
            f"steps={text}", "a window is start:stop, the stop not included", "steps=0:50 or steps=0.0:0.2"
        )
    return _value(found[1]), _value(found[2])


def _read_strength(text: str) -> float:
    """Read a dose."""
    if not re.fullmatch(_NUMBER, text):
        raise spec_error(f"strength={text}", "it must be a number from 0 to 1", "strength=0.3")
    return float(text)


_OPTION_READERS = {"layers": _read_layers, "steps": _read_steps, "pause": _read_steps, "strength": _read_strength}
