"""What is made of opened runs for a browser, and kept: data of views, strips of pictures, reports.

Everything is named by the run's version, so that a run that has grown is made again.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from interventions.errors import InputError
from tracer.cli.viewing.catalogue import NotFoundError, Opened
from tracer.cli.viewing.pages import address

T = TypeVar("T")


@dataclass
class Kept(Generic[T]):
    """The results asked for last, by key, at most so many; two that ask for the same wait for one making of it."""

    most: int
    _values: OrderedDict[object, T] = field(default_factory=OrderedDict)
    _making: dict[object, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of a key, made if it is not kept."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if key not in self._values:
                value = make()
                with self._lock:
                    self._values[key] = value
            with self._lock:
                self._values.move_to_end(key)
                while len(self._values) > self.most:
                    gone, _ = self._values.popitem(last=False)
                    self._making.pop(gone, None)
                return self._values[key]


class Held:
    """Data, strips and reports of opened runs."""

    def __init__(self) -> None:
        self._payloads, self._reports = Kept[bytes](8), Kept[str](8)
        self._strips, self._makers = Kept[bytes](512), Kept[Any](8)

    def payload(self, opened: Sequence[Opened], samples: range) -> bytes:
        """The data of a view of these samples as JSON, pictures as addresses."""
        from analysis.viewer.payload import payload

        def source(place: int, kind: str, arm: str, sample: int) -> str:
            one = opened[place]
            named = {"run": one.line.name, "kind": kind, "arm": arm, "sample": str(sample), "version": one.version}
            return address("/strip", named)

        def make() -> bytes:
            document = payload([one.tree for one in opened], budget=None, samples=samples, source=source)
            for one, shown in zip(opened, document["runs"], strict=True):
                shown["name"] = one.line.name
            if not any(shown["samples"] for shown in document["runs"]):
                raise NotFoundError(f"no sample from {samples.start} to {samples.stop - 1} is complete in every arm")
            return json.dumps(document).encode()

        return self._payloads.get((_key(opened), samples), make)

    def strip(self, opened: Opened, kind: str, arm: str, sample: int) -> bytes:
        """A strip as WebP. Raises NotFoundError for a kind or an arm that the run has not."""
        from analysis.viewer.strips import Recorded, Strips

        strips = self._makers.get(_key([opened]), lambda: Strips(Recorded(opened.tree)))

        def make() -> bytes:
            try:
                return strips.webp(kind, arm, [sample])[0]
            except InputError as error:
                raise NotFoundError(str(error)) from error

        return self._strips.get((_key([opened]), kind, arm, sample), make)

    def report(self, opened: Sequence[Opened]) -> str:
        """The page about runs that needs no server."""
        import matplotlib

        from analysis import report

        matplotlib.use("agg")
        trees = [one.tree for one in opened]
        return self._reports.get(_key(opened), lambda: report(trees if len(trees) > 1 else trees[0]))


def _key(opened: Sequence[Opened]) -> tuple[tuple[str, str], ...]:
    return tuple((one.line.name, one.version) for one in opened)
