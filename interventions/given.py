"""What users bring themselves: the names of their arms, and where a function of theirs comes from."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from typing import Any

from interventions.errors import SpecError, spec_error

NAME = re.compile(r"[A-Za-z][A-Za-z0-9 ._-]{0,39}")
"""What an arm may be called: it is a coordinate, a column and a part of file names."""


def check_name(called: str) -> None:
    """Raise `SpecError` for a name that is none, or is a spec."""
    from interventions.changes.registry import ARMS
    from interventions.spec import parse

    if not isinstance(called, str) or not NAME.fullmatch(called) or called != called.strip():
        why = "an arm's name starts with a letter and has at most 40 letters, digits, spaces, dots, dashes"
        raise spec_error(f"name {called!r}", why, "my-cache")
    if called in ARMS:  # it may be the one that is being loaded
        return
    try:
        parse(called)
    except SpecError:
        return
    raise spec_error(f"name {called!r}", "that is a spec already, so the two could not be told apart", f"my-{called}")


def of_function(function: Any) -> str:
    """Where a function comes from, what `functools.partial` fixed of it, and a hash of its source.

    "module:name(every=2) 0123456789abcdef".
    """
    fixed = ""
    if isinstance(function, functools.partial):
        named = [f"{name}={value!r}" for name, value in sorted(function.keywords.items())]
        fixed, function = f"({', '.join([*map(repr, function.args), *named])})", function.func
    inner = inspect.unwrap(function)
    where = f"{getattr(inner, '__module__', '')}:{getattr(inner, '__qualname__', type(inner).__name__)}{fixed}"
    try:
        source = inspect.getsource(inner if inspect.isroutine(inner) or inspect.isclass(inner) else type(inner))
    except (OSError, TypeError):
        return where
    return f"{where} {hashlib.sha256(source.encode()).hexdigest()[:16]}"
