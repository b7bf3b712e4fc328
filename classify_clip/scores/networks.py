"""Networks that are loaded once while a metric goes through a run piece by piece, and let go afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Network = TypeVar("Network")
_kept: dict[Hashable, object] | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Within this, what `once` loads is kept; the outermost of several such blocks lets it go."""
    global _kept
    before, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


def once(load: Callable[Parameters, Network]) -> Callable[Parameters, Network]:
    """Decorator of a function that loads a network: within `kept`, the same arguments (hashable) give the same one."""

    @wraps(load)
    def loaded(*args: Parameters.args, **options: Parameters.kwargs) -> Network:
        if _kept is None:
            return load(*args, **options)
        key = (load, args, tuple(sorted(options.items())))
        if key not in _kept:
            _kept[key] = load(*args, **options)
        return _kept[key]  # type: ignore[return-value]

    return loaded
