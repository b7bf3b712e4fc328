"""What the seam can measure of attention, by name; the store, the command line and the seam agree on it here.

Names and sizes only, without torch: what they mean stands in `seam.measurements`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RECORDS = ("mass", "mass-per-head", "entropy", "sinks", "keys", "words")
TOP = 5  # keys of most mass that "sinks" keeps: the dimension `rank` of a store
WORDS = "words"


@dataclass(frozen=True)
class Words:
    """In which steps and layers "words" is measured; None: in all. Written `words@steps=0,4;layers=2,3`."""

    steps: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """Return it as `record` takes it."""
        named = {"steps": self.steps, "layers": self.layers}
        chosen = ";".join(f"{name}={','.join(map(str, at))}" for name, at in named.items() if at is not None)
        return f"{WORDS}@{chosen}" if chosen else WORDS

    def at(self, step: int | None) -> bool:
        """Whether it is measured in this step."""
        return self.steps is None or step in self.steps


def names(record: Iterable[str]) -> list[str]:
    """The names alone, without what stands behind an @."""
    return [name.partition("@")[0] for name in record]


def words_in(record: Sequence[str]) -> Words | None:
    """Where "words" is measured; None where it is not recorded. Raises ValueError for what cannot be read."""
    for name in record:
        if names([name]) == [WORDS]:
            chosen = dict(part.split("=") for part in name.partition("@")[2].split(";") if part)
            return Words(**{key: tuple(map(int, filter(None, at.split(",")))) for key, at in chosen.items()})
    return None
