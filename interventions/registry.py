"""A registry for each thing that users add: mask families, models, samplers, measures, metrics.

What ships is listed by name and imported on first use; what another distribution brings is found by its entry points.
Listing names imports nothing, so `trace --help` stays quick.

    [project.entry-points."denoise_trace.samplers"]
    heun = "my_package.heun:HEUN"
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from interventions.errors import InputError
from interventions.naming import unknown

Item = TypeVar("Item")


class Registry(Mapping[str, Item], Generic[Item]):
    """Names and what they stand for, in order: what ships, then what was registered, then entry points by name.

    kind: what an item is called in messages ("sampler"). built_in: name -> "module:attribute". The entry points are
    those of the group "denoise_trace.<kind>s" unless `group` names another. A shipped name cannot be taken over.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str], *, group: str | None = None) -> None:
        self.kind = kind
        self.group = group or f"denoise_trace.{kind.replace(' ', '_')}s"
        self._built_in = dict(built_in)
        self._registered: dict[str, Item] = {}
        self._entry_points: dict[str, EntryPoint] | None = None

    def register(self, name: str, item: Item) -> Item:
        """Add an item under a name; raises InputError if the name is taken by something else."""
        if name in self._built_in or self._registered.get(name, item) is not item:
            raise InputError(f"there is a {self.kind} {name!r} already: choose another name")
        self._registered[name] = item
        return item

    def __getitem__(self, name: str) -> Item:
        """The item of that name, imported on first use. Raises KeyError, as mappings do; `get_or_raise` explains.

        Raises InputError where another distribution's item cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            item: Any = getattr(import_module(module), attribute)
        else:
            item = self._load(self._external[name])
        self._registered[name] = item
        return item

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in  # entry points are looked up only by those who get past what ships
        external = dict.fromkeys([*self._registered, *sorted(self._external)])
        yield from (name for name in external if name not in self._built_in)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._registered or name in self._external

    def get_or_raise(self, name: str, error: Callable[[str], Exception] = InputError) -> Item:
        """The item of that name, or an error that lists the names and what was probably meant."""
        if name in self:
            return self[name]
        raise error(unknown(f"unknown {self.kind} {name!r}", name, self))

    @property
    def built_in(self) -> tuple[str, ...]:
        """Names of what ships, in order."""
        return tuple(self._built_in)

    def _load(self, point: EntryPoint) -> Item:
        """The item of an entry point; raises InputError, naming the distribution, where it cannot be imported."""
        try:
            return point.load()
        except Exception as error:
            owner = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
            raise InputError(
                f"the {self.kind} {point.name!r}{owner} cannot be loaded from {point.value}: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def _external(self) -> Mapping[str, EntryPoint]:
        if self._entry_points is None:
            points = entry_points(group=self.group)
            self._entry_points = {point.name: point for point in points if point.name not in self._built_in}
        return self._entry_points
