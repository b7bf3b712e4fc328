"""`tracer.arm`: an arm that no spec string writes, because it is made of the user's own network or code."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from interventions import Intervention
from interventions.errors import SpecError, spec_error
from interventions.spec import options

OWN = re.compile(r"([^=@]+)=([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(@.*)?")
"""How an arm of the user's is typed: NAME=module:attribute, with a scope behind it."""
NEARLY = re.compile(r"(?:([^=@:]+)=)?([A-Za-z_][\w./]*)[:.]([A-Za-z_]\w*)(@.*)?")
"""What people type for it: without a name, with a path or with a dot."""
KINDS = ("model", "context", "cache", "backend", "attention", "patch", "heads", "steps", "sampler")


def arm(
    name: str,
    *,
    model: Any = None,
    context: Callable[..., Any] | None = None,
    cache: Any = None,
    backend: str | None = None,
    attention: Callable[..., Any] | None = None,
    patch: tuple[str | Intervention, str | Intervention] | None = None,
    heads: int | Sequence[int] | None = None,
    steps: int | None = None,
    sampler: str | None = None,
) -> Intervention:
    """An arm named `name`, accepted wherever a spec string is; give exactly one of the others.

    model: a second network, as a torch module or as a function that makes one of the clean network, which is called
    once. context: a function of the network that returns a context manager, entered around every forward of the arm
    (`contextlib.contextmanager` makes one of a generator); with a second parameter it is handed this path's memory, a
    dict that is kept from step to step and empty at the first, and with a third where in the run the forward is
    (`interventions.changes.base.At`). cache: settings of a cache of diffusers, such as `MagCacheConfig(...)`. backend:
    an attention backend of diffusers by its name. attention: a function of (query, key, value, mask) that answers
    attention calls. patch: (donor, host), two arms or specs: the arm runs under the host and takes attention outputs of
    the donor, which is an arm of the run too. heads: of attention, which put out zero. steps: the network is asked at
    so many of the run's steps. sampler: the name of the one that moves this arm. What is made by backend, patch, heads,
    steps and sampler is a spec, and called by it: `steps14`.

    The arm has a scope like any other: `tracer.arm(...).at(steps=(0, 10), strength=0.1)`. Raises SpecError for a name
    that is none or is a spec, and where none or several of the others are given.
    """
    given = {
        kind: value
        for kind, value in zip(
            KINDS, (model, context, cache, backend, attention, patch, heads, steps, sampler), strict=True
        )
        if value is not None
    }
    if len(given) != 1:
        what = " and ".join(given) or "nothing"
        why = f"it is made of one thing, and of {what} here: give one of {', '.join(KINDS)}"
        raise spec_error(f"arm {name!r}", why, "tracer.arm('mine', context=my_context)")
    ((kind, value),) = given.items()
    return _MAKERS[kind](name, value)


def _of_model(name: str, model: Any) -> Intervention:
    from interventions.changes.own import SecondNetwork

    return SecondNetwork(name, network=model)


def _of_context(name: str, enter: Callable[..., Any]) -> Intervention:
    from interventions.changes.own import context

    return context(name, enter)


def _of_cache(name: str, config: Any) -> Intervention:
    from interventions.changes.own import ConfiguredCache

    return ConfiguredCache(name, config=config)


def _of_backend(name: str, backend: str) -> Intervention:
    from interventions.changes.backend import Backend

    return Backend(backend)


def _of_attention(name: str, function: Callable[..., Any]) -> Intervention:
    from interventions.families.function import Function

    return Function(name, function)


def _of_patch(name: str, sides: tuple[str | Intervention, str | Intervention]) -> Intervention:
    from interventions import parse
    from interventions.families.patch import Patch

    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise spec_error(f"patch={sides!r}", "it is (donor, host)", "tracer.arm('mine', patch=('clean', 'R4S32'))")
    donor, host = (parse(side) if isinstance(side, str) else side for side in sides)
    return Patch(donor=donor, host=host)


def _of_heads(name: str, heads: int | Sequence[int]) -> Intervention:
    from interventions.families.heads_off import HeadsOff

    return HeadsOff().at(heads=heads)


def _of_steps(name: str, count: int) -> Intervention:
    from interventions.changes.fewer import FewerSteps

    return FewerSteps(count)


def _of_sampler(name: str, sampler: str) -> Intervention:
    from interventions.changes.fewer import OtherSampler

    return OtherSampler(sampler)


_MAKERS: dict[str, Callable[[str, Any], Intervention]] = {
    "model": _of_model,
    "context": _of_context,
    "cache": _of_cache,
    "backend": _of_backend,
    "attention": _of_attention,
    "patch": _of_patch,
    "heads": _of_heads,
    "steps": _of_steps,
    "sampler": _of_sampler,
}


def typed_arm(text: str) -> Intervention | None:
    """The arm that NAME=module:attribute names; None for a text of another form, which is a spec.

    The attribute is an arm, a function without arguments that returns one, or a context manager function. Modules of
    the current directory can be named. Raises SpecError where it is none of these or cannot be imported.
    """
    match = OWN.fullmatch(text.strip())
    if match is None:
        if meant := nearly(text.strip()):
            raise spec_error(f"arm {text!r}", "an arm of your own is NAME=module:attribute", meant)
        return None
    name, module, attribute, scope = match.groups()
    value = _imported(text, module, attribute)
    made = _made(text, name.strip(), value)
    return made.at(**options(scope[1:])) if scope else made


def nearly(text: str) -> str:
    """What was meant by a text that is almost NAME=module:attribute; "" for one that is not."""
    match = NEARLY.fullmatch(text)
    if match is None or not ("=" in text or ":" in text):
        return ""
    name, module, attribute, scope = match.groups(default="")
    module = module.replace("/", ".").removesuffix(".py")
    return f"{name or attribute}={module}:{attribute}{scope}"


def _why_not(module: str, error: Exception) -> str:
    """What was wrong with a module, and which one of this folder was probably meant."""
    if not isinstance(error, ModuleNotFoundError) or error.name != module:
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    from interventions.naming import unknown

    here = sorted(file.stem for file in Path().glob("*.py"))
    why = f"there is no module {module!r} in {Path.cwd().name}/ or among those installed"
    return unknown(why, module, here) if here else why


def _imported(text: str, module: str, attribute: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        value: Any = importlib.import_module(module)
    except Exception as error:
        raise SpecError(f"arm {text!r}: {_why_not(module, error)} (for example mine=my_arms:my_cache)") from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            from interventions.naming import unknown

            names = [each for each in vars(value) if not each.startswith("_")]
            raise SpecError(unknown(f"arm {text!r}: {module} has no {part!r}", part, names))
        value = getattr(value, part)
    return value


def _made(text: str, name: str, value: Any) -> Intervention:
    from interventions.given import check_name

    check_name(name)
    if isinstance(value, Intervention):
        return _called(text, name, value)
    wrapped = inspect.unwrap(value) if callable(value) else None
    if wrapped is not value and inspect.isgeneratorfunction(wrapped):
        return arm(name, context=value)
    if callable(value) and not inspect.signature(value).parameters:
        value = value()
        if isinstance(value, Intervention):
            return _called(text, name, value)
    elif inspect.isfunction(value) and len(inspect.signature(value).parameters) in (4, 5):  # q, k, v, mask, scale
        return arm(name, attention=value)
    why = (
        "it is no arm: name what tracer.arm(...) made, a function that returns that, a context manager function, or a "
        "function of (q, k, v, mask)"
    )
    raise spec_error(f"arm {text!r}", why, "mine=my_arms:my_cache")


def _called(text: str, name: str, made: Intervention) -> Intervention:
    """The arm under the name that was typed; what is a spec is called by it. Raises SpecError for another name."""
    if any(own.name == "called" for own in fields(made)):
        return replace(made, called=name)  # type: ignore[call-arg]
    if str(made) != name:
        raise spec_error(f"arm {text!r}", f"it is {made}, which has that name already", str(made))
    return made
