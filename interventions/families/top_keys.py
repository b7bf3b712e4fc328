"""Top-k sparse attention: `topk16` leaves every query its 16 keys of largest logit, `topk0.25` a quarter of the keys.

Value and grammar are here; which keys they are is found in every attention call (`seam.calls.Top`). Keys whose logit
equals that of the last one kept are kept too.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from interventions.errors import spec_error
from interventions.families.base import OnCalls
from interventions.scope import NUMBER, OF_TEXT, read_number, whole


@dataclass(frozen=True)
class TopKeys(OnCalls):
    """`topk16` or `topk0.25`: each query of each head keeps its keys of largest logit, the rest is renormalised.

    count: so many of the keys that `keys=` names, or share: that part of them, rounded half up, at least 1. Keys of
    other kinds stay. A dose a scales the probability of the keys that go by (1 - a), as of a graph's. A call with no
    more keys than are kept is the stock call.
    """

    count: int | None = None
    share: float | None = None
    options: ClassVar[frozenset[str]] = OnCalls.options | {"keys"}
    noun: ClassVar[str] = "mask"
    example: ClassVar[str] = "topk16"
    heads: ClassVar[tuple[str, ...]] = ("topk16", "topk0.25")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (rf"top[-_ ]?k?[-_ =]?{NUMBER}", r"topk\1", "it is written topk16"),
        (r"top[-_]?k", "topk16", "the number of keys is missing"),
    )

    def __post_init__(self) -> None:
        """Refuse what is neither a number of keys nor a share of them."""
        if (self.count is None) == (self.share is None):
            raise spec_error("topk", "it keeps a number of keys or a share of them", "topk16 or topk0.25")
        if self.share is None:
            object.__setattr__(self, "count", whole("topk", self.count, 1, "topk16"))
        elif 0 < float(self.share) <= 1:
            object.__setattr__(self, "share", float(self.share))
        else:
            raise spec_error(f"topk{self.share}", "a share of the keys lies above 0 and is at most 1", "topk0.25")
        super().__post_init__()
        if self.scope.keys in OF_TEXT:
            raise spec_error(f"keys={self.scope.keys}", f"{self.name} tells no words from padding", "keys=text")

    @classmethod
    def read(cls, head: str) -> "TopKeys | None":
        """Read `topk16` and `topk0.25`; a share is written with a point."""
        match = re.fullmatch(f"topk{NUMBER}", head)
        if not match:
            return None
        number = read_number(match[1])
        return cls(number) if isinstance(number, int) else cls(share=number)

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"topk{self.count if self.share is None else repr(self.share)}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "top-k"

    @property
    def parameters(self) -> dict[str, object]:
        """The number or the share, whichever it is."""
        return {name: value for name, value in super().parameters.items() if value is not None}

    def kept(self, keys: int) -> int:
        """How many of so many keys a query keeps."""
        if self.share is None:
            assert self.count is not None
            return min(self.count, keys)
        return max(1, math.floor(Fraction(repr(self.share)) * keys + Fraction(1, 2)))
