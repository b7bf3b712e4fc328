"""How a field of `Request` is described: what the command line, the Python call and the store read of it.

Nothing heavy is imported here; the names that a field may hold are asked for when help is shown.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Parameter:
    """How a field of `Request` meets the command line and the store.

    flag: as typed, "--steps", or "--floor/--no-floor" for a switch with two names; None: for Python only. also: another
    flag for the same. type: of one value. choices: gives the names that are allowed, or may stand in the list; called
    only when help is shown or an error explained, since it may import. multiple: the flag may be repeated. many: one
    string holds several, by comma. stored: key of the stored configuration, which `--resume` compares; None: it does
    not change a number. default: that of the field. later: left out of the stored configuration at its default, so that
    runs older than it can go on. once: the default that such older runs had, where it has changed since; it is left out
    at this one. beside: the records that it is about; without any of them the field is not stored, and refused. option:
    handed to the model's loader, under the field's name, where it is not the default.
    """

    help: str
    flag: str | None = None
    also: str | None = None
    metavar: str | None = None
    type: type = str
    choices: Callable[[], Iterable[str]] | None = None
    multiple: bool = False
    many: bool = False
    stored: str | None = None
    default: Any = None
    later: bool = False
    once: Any = None
    beside: tuple[str, ...] = ()
    option: bool = False

    def fits(self, recorded: Collection[str]) -> bool:
        """Whether it says anything about a run that records these."""
        return not self.beside or any(name in recorded for name in self.beside)

    @property
    def unsaid(self) -> Any:
        """The value of a run whose stored configuration does not have the key."""
        return self.default if self.once is None else self.once


def typed(help: str, flag: str | None = None, **how: Any) -> dict[str, Parameter]:
    """The metadata of a field of `Request`."""
    return {"parameter": Parameter(help, flag, **how)}


def option(help: str, flag: str, stored: str | None, **how: Any) -> dict[str, Parameter]:
    """The metadata of a field that the model's loader takes; a family without it refuses it by name."""
    return typed(help, flag, stored=stored, later=True, option=True, **how)


def offloads() -> Iterable[str]:
    """Ways to save GPU memory."""
    from tracer.denoisers.checkpoints import OFFLOADS

    return OFFLOADS


def models() -> Iterable[str]:
    """Families of models."""
    from tracer.denoisers.registry import MODELS

    return MODELS


def samplers() -> Iterable[str]:
    """Samplers."""
    from tracer.samplers.registry import SAMPLERS

    return SAMPLERS


def records() -> Iterable[str]:
    """Records, and the presets that stand for several."""
    from tracer.recording import PRESETS
    from tracer.store.records import RECORDS

    return [*RECORDS, *PRESETS]


def words_of(name: str, parameter: Parameter, value: Any) -> list[str]:
    """How a field's value is typed: a switch, a flag that is repeated, or a flag and its value; nothing for the
    default."""
    if name == "record":
        return _records(value)
    if value == parameter.default or value is None:
        return []
    flag = str(parameter.flag)
    if parameter.type is bool:
        return [flag.split("/")[0 if value else -1]]
    if isinstance(value, Mapping):
        written = str if parameter.stored == "parts" else json.dumps
        texts = [f"{each}={written(argument)}" for each, argument in value.items()]
    else:
        texts = list(value) if parameter.multiple else [f"{value:g}" if parameter.type is float else str(value)]
    return [word for text in texts for word in (flag, text)]


def _records(names: Collection[str]) -> list[str]:
    """Nothing for the default; else what was named, without what that brings along."""
    from tracer.store.records import DEFAULT, RECORDS, with_brought

    if set(names) - {"cost"} == with_brought(DEFAULT):  # which comes by itself where an arm changes the network
        return []
    brought = {each for name in names for each in RECORDS[name].brings} | {"norms"}
    return ["--record", ",".join(name for name in RECORDS if name in set(names) - brought) or "norms"]


def with_parameters_of(request: Callable[P, Value]) -> Callable[[Callable[[Value], Result]], Callable[P, Result]]:
    """Decorate a function of one value so that it takes that value's parameters instead.

    Readers, completion, type checks and `inspect.signature` then see the parameters of `Request`, which stand once.
    """

    def decorate(function: Callable[[Value], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> Result:
            return function(request(*arguments, **named))

        own, returned = inspect.signature(request), inspect.signature(function).return_annotation
        call.__signature__ = own.replace(return_annotation=returned)  # type: ignore[attr-defined]
        call.__annotations__ = {name: each.annotation for name, each in own.parameters.items()} | {"return": returned}
        return call

    return decorate
