"""Several changes at once: `int8+cache2`, or a schedule, `reuse@steps=4,6;layers=0-2+reuse@steps=8:12;layers=3-5`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.changes.fewer import Moves
from interventions.errors import spec_error
from interventions.families.base import Intervention
from interventions.layout import TokenLayout
from interventions.scope import hull


@dataclass(frozen=True)
class Together(Change):
    """Changes that act together, each in its own scope.

    Second networks come first, so that the others act on the network that runs; else from left to right.
    """

    parts: tuple[Intervention, ...]
    options: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[str] = "int8+cache2"

    def __post_init__(self) -> None:
        """Refuse what does not act around a forward, and doses of parts."""
        for part in self.parts:
            if not isinstance(part, Change) or isinstance(part, Moves):
                why = "only changes of the network act together: caches, quantisation, contexts, second networks"
                raise spec_error(f"{part} in {self}", why, self.example)
            if part.scope.strength != 1:
                raise spec_error(f"{part} in {self}", "a part has no dose of its own", self.example)
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> None:
        """Composites are read by `parse`, part by part."""
        return None

    def __str__(self) -> str:
        """Return the parts, joined."""
        return self.name

    @property
    def name(self) -> str:
        """The parts, each with its scope."""
        return "+".join(map(str, self.parts))

    @property
    def family(self) -> str:
        """The families of the parts, each once."""
        return "+".join(dict.fromkeys(part.family for part in self.parts))

    @property
    def parameters(self) -> dict[str, object]:
        """The parts' own."""
        return {"parts": [{"spec": str(part), **part.parameters} for part in self.parts]}

    @property
    def noun(self) -> str:  # type: ignore[override]
        """The parts' own where they agree."""
        nouns = {part.noun for part in self.parts}
        return nouns.pop() if len(nouns) == 1 else "change"

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether any part does."""
        return any(part.remembers for part in self._changes)

    @property
    def _changes(self) -> Sequence[Change]:
        return [part for part in self.parts if isinstance(part, Change)]

    def window(self, steps: int) -> Sequence[int]:
        """The steps in which any part acts."""
        return sorted({step for part in self.parts for step in part.window(steps)})

    def extent(self, steps: int) -> range:
        """From the first step in which any part acts to the last."""
        return hull(self.window(steps))

    @property
    def whole(self) -> bool:
        """Whether no part names steps or a pause."""
        return all(part.whole for part in self.parts)

    def at(self, **changes: Any) -> Together:
        """Each part with these fields of its scope replaced, as far as it has them."""
        return replace(
            self,
            parts=tuple(
                part.at(**{name: value for name, value in changes.items() if name in part.options})
                for part in self.parts
            ),
        )

    def check(
        self, layout: TokenLayout, layers: int | None = None, steps: int | None = None, heads: int | None = None
    ) -> None:
        """Raise for what rules out any part."""
        for part in self.parts:
            part.check(layout, layers=layers, steps=steps, heads=heads)

    @contextmanager
    def around(self, network: Any, memory: Memory, at: At) -> Iterator[None]:
        """The contexts of the parts that act in this step, each with a memory of its own."""
        with ExitStack() as stack:
            order = sorted(enumerate(self._changes), key=lambda part: not part[1].replaces)
            for number, part in order:
                if at.step in part.window(at.steps):
                    own = memory.setdefault(str(number), {}) if part.remembers else {}
                    stack.enter_context(part.around(network, own, at))
            yield

    def fingerprint(self, network: Any) -> str:
        """Those of the parts."""
        return "; ".join(filter(None, (part.fingerprint(network) for part in self._changes)))

    def cost(self, at: At, layers: int) -> float:
        """What is left when each part has saved its own share."""
        acting = [part for part in self._changes if at.step in part.window(at.steps)]
        return max(0.0, 1 - sum(1 - part.cost(at, layers) for part in acting))
