"""A user's own change of the network: any context around its forward, or a second network. `tracer.arm` makes them.

They have the name that the user gave them, which no grammar reads; what they are made of is their fingerprint.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.given import check_name, of_function


@dataclass(frozen=True)
class Own(Change):
    """A change with a name of the user's."""

    called: str

    def __post_init__(self) -> None:
        """Refuse names that cannot be told from a spec, or cannot be typed."""
        check_name(self.called)
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> None:
        """No spec is read as a user's own arm."""
        return None

    @property
    def name(self) -> str:
        """The name it was given."""
        return self.called

    @property
    def family(self) -> str:
        """Name of the family in stores and tables: the arm is a family by itself."""
        return self.called

    @property
    def parameters(self) -> dict[str, object]:
        """What is stored of it beside the fingerprint: nothing."""
        return {}


@dataclass(frozen=True)
class Context(Own):
    """`enter(network)` is a context manager that is entered around every forward."""

    enter: Callable[..., AbstractContextManager[Any]] = field(kw_only=True)
    noun: ClassVar[str] = "patch of the network"

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The user's context."""
        from interventions.network.second import running

        return self._checked(self.enter(running(network)))

    def fingerprint(self, network: Any) -> str:
        """Module, name and source of the function."""
        return of_function(self.enter)

    def _checked(self, context: Any) -> AbstractContextManager[None]:
        if not hasattr(context, "__enter__"):
            raise TypeError(
                f"arm {self.called!r}: its context= returned a {type(context).__name__}, no context manager; decorate "
                "the function with contextlib.contextmanager, and yield once"
            )
        return context  # type: ignore[no-any-return]


@dataclass(frozen=True)
class RememberingContext(Context):
    """`enter(network, memory)` or `enter(network, memory, at)`: a context with a memory, such as a cache's."""

    noun: ClassVar[str] = "cache"
    remembers: ClassVar[bool] = True

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The user's context, with the memory of the path."""
        from interventions.network.second import running

        told = (running(network), memory, at)[: _asked(self.enter)]
        return self._checked(self.enter(*told))


@dataclass(frozen=True)
class ConfiguredCache(Own):
    """A cache of diffusers with settings of the user's: any that `enable_cache` takes and `library_caches` knows."""

    config: Any = field(kw_only=True, hash=False)  # diffusers' settings have no hash
    noun: ClassVar[str] = "cache"
    remembers: ClassVar[bool] = True
    shares: ClassVar[bool] = True

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """diffusers' hooks, with the states of this path."""
        from interventions.network.library_caches import attached
        from interventions.network.second import running

        return attached(running(network), self.config, memory, self)

    def fingerprint(self, network: Any) -> str:
        """The version of diffusers and every setting, of functions where they come from."""
        from interventions.network.library_caches import settings, version

        said = [f"{name}={of_function(value) if callable(value) else value}" for name, value in settings(self.config)]
        return f"diffusers {version()}, {type(self.config).__name__}({', '.join(said)})"


@dataclass(frozen=True)
class SecondNetwork(Own):
    """`network` answers instead: a torch module, or a function that makes one of the clean network."""

    network: Any = field(kw_only=True)
    noun: ClassVar[str] = "second network"
    replaces: ClassVar[bool] = True

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The second network in the place of the first."""
        from interventions.network.second import running, stand_in

        base = running(network)
        return stand_in(base, self._second(base))

    def fingerprint(self, network: Any) -> str:
        """The weights of the second network, and the source of the function that makes it."""
        from interventions.network.second import weights_sha256

        made = "" if self._is_network else of_function(self.network) + " "
        return made + weights_sha256(self._second(network))

    @property
    def _is_network(self) -> bool:
        return hasattr(self.network, "state_dict")

    def _second(self, network: Any) -> Any:
        from interventions.network.second import made_once

        if self._is_network:
            return self.network
        return made_once(network, self.network, self.network)


def context(called: str, enter: Callable[..., AbstractContextManager[Any]]) -> Context:
    """The arm of a context manager function; with a second parameter it is handed a memory."""
    kind = RememberingContext if _asked(enter) > 1 else Context
    return kind(called, enter=enter)


def _asked(enter: Callable[..., Any]) -> int:
    """How many of (network, memory, at) a function takes by position."""
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [each for each in inspect.signature(enter).parameters.values() if each.kind in places]
    required = [each for each in taken if each.default is inspect.Parameter.empty]
    if not 1 <= len(required) <= 3:
        raise TypeError(f"context={enter!r} takes {len(required)} arguments: network, memory and at can be given")
    return len(required)
