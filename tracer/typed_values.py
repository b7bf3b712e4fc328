"""Values that are more than a word, as people type them: sizes, and names with values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from interventions.errors import InputError
from tracer.denoisers.checkpoints import recorded

PICTURE = "@"
"""In front of the file of a picture, where an argument is one."""


def size_in_words(size: str | int | Sequence[int] | None) -> str | None:
    """512, "512", (512, 768) and "512x768" as HxW. Raises InputError."""
    if size is None:
        return None
    text = "x".join(map(str, size)) if isinstance(size, Sequence) and not isinstance(size, str) else str(size)
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})?", text):
        raise InputError(f"--size {text}: height x width in pixels, for example 512x768, or one number for a square")
    return text if "x" in text else f"{text}x{text}"


def sides(size: Any) -> tuple[int, int]:
    """HxW -> (height, width)."""
    height, _, width = str(size).partition("x")
    return int(height), int(width)


def call_value(text: str) -> Any:
    """The value of an argument: JSON, or @FILE for a picture, which stays text. Raises ValueError."""
    return text if text.startswith(PICTURE) else json.loads(text)


def without_paths(name: str, value: Any) -> Any:
    """What is stored of a field: of files and folders of this machine their names alone."""
    if name == "lora":
        return [_scaled(*text.rpartition("=")) for text in value]
    if name == "parts":
        return {part: recorded(where) for part, where in dict(value).items()}
    if name == "call":
        return {each: _without_path(argument) for each, argument in dict(value).items()}
    return value


def _scaled(where: str, equals: str, last: str) -> str:
    """WHERE=SCALE, or WHERE alone, which is then the last part."""
    return f"{recorded(where)}={last}" if equals else recorded(last)


def _without_path(value: Any) -> Any:
    return f"{PICTURE}{recorded(value[1:])}" if isinstance(value, str) and value.startswith(PICTURE) else value


def named_values(
    given: Mapping[str, Any] | Iterable[str] | str, flag: str, example: str, read: Callable[[str], Any] = str
) -> dict[str, Any] | tuple[()]:
    """A mapping from NAME=VALUE texts, each value read by `read`; () where there is none. Raises InputError."""
    if isinstance(given, Mapping):
        return dict(given) or ()
    found: dict[str, Any] = {}
    for text in (given,) if isinstance(given, str) else given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{flag} {text}: it is NAME=VALUE, for example {flag} {example}")
        if name in found:
            raise InputError(f"{flag} {name}: it is there twice")
        try:
            found[name] = read(value)
        except ValueError as error:
            raise InputError(
                f"{flag} {text}: {value} is no JSON value. Those are numbers, true, false, null, lists such as [1, 2] "
                f"and text in quotes; a picture is @FILE: {flag} '{name}=\"{value}\"'"
            ) from error
    return found or ()
