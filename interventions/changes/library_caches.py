"""The feature caches of diffusers as arms: `pab2`, `fastercache2`, `fbc0.1`, `taylorseer3`, `magcache0.06`.

Their own hooks are put on for a forward and taken off after it; what they remember belongs to the path. Where they act
in the run is said by `steps=`, so their own ranges of timesteps are left open; `layers=` chooses attention modules.

- `pab2`: the attention outputs of every second step are reused (Zhao et al., arXiv:2408.12588), self and cross alike.
- `fastercache2`: the same, extrapolated from the last two by a weight of one half (Lv et al., arXiv:2410.19355). Its
  second part, which makes the unconditional half of a guided batch out of the other, is left out: it takes the first
  half for the unconditional one and wants every input by name.
- `fbc0.1`: all blocks but the first are skipped while the first one's residual has changed by less than a tenth since
  it was last computed (ParaAttention; after TeaCache, arXiv:2411.19108).
- `taylorseer3`: attention outputs are computed in every third step and continued by a Taylor series between (Liu et
  al., arXiv:2503.06923), of order 1, or 2 with `-o2`; the first three steps are computed.
- `magcache0.06`: all blocks are skipped while the accumulated change of their residual's size, known from ratios that
  are the model's, stays below the threshold (Ma et al., arXiv:2506.09045). diffusers has ratios for FLUX.

`fbc` decides for a batch together: the mean is over all samples that are evaluated at once.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.errors import spec_error
from interventions.scope import UNSIGNED, as_text, read_number, whole

FAMILIES = {
    "pab": "pyramid-attention-broadcast",
    "fastercache": "faster-cache",
    "fbc": "first-block-cache",
    "taylorseer": "taylorseer",
    "magcache": "magcache",
}
EVERY = ("pab", "fastercache", "taylorseer")
"""Those that count steps; the others have a threshold."""


@dataclass(frozen=True)
class LibraryCache(Change):
    """`pab2`, `fbc0.1`, ...: a cache of diffusers. amount: its steps or its threshold. order: of a Taylor series."""

    kind: str
    amount: float
    order: int = 1
    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause", "strength"})
    example: ClassVar[str] = "pab2"
    heads: ClassVar[tuple[str, ...]] = ("pab2", "fastercache2", "fbc0.1", "taylorseer3", "magcache0.06")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (r"pab", "pab2", "the number of steps is missing"),
        (r"faster[-_ ]?cache", "fastercache2", "the number of steps is missing"),
        (r"(?:fbc|fb[-_ ]?cache|first[-_ ]?block[-_ ]?cache)", "fbc0.1", "the threshold is missing"),
        (rf"(?:fb[-_ ]?cache|first[-_ ]?block[-_ ]?cache){UNSIGNED}", r"fbc\1", "it is written short"),
        (r"taylor[-_ ]?seer", "taylorseer3", "the number of steps is missing"),
        (r"mag[-_ ]?cache", "magcache0.06", "the threshold is missing"),
    )
    noun: ClassVar[str] = "cache"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse other kinds, amounts that are none, and layers where all blocks go together."""
        if self.kind not in FAMILIES:
            raise spec_error(f"kind {self.kind!r}", f"it is one of {', '.join(FAMILIES)}", "pab2")
        if self.kind in EVERY:
            object.__setattr__(self, "amount", whole(self.kind, self.amount, 1, f"{self.kind}2"))
        elif self.amount < 0:
            why = "a threshold is 0, which computes everything, or more"
            raise spec_error(f"{self.kind}{as_text(self.amount)}", why, f"{self.kind}0.1")
        object.__setattr__(self, "order", whole("order o", self.order, 1, "taylorseer3-o2"))
        super().__post_init__()
        if self.scope.layers is not None and self.kind not in EVERY:
            why = f"{self.name} skips all blocks together"
            raise spec_error(f"{self}: layers", why, f"{self.name}@steps=5:20")

    @classmethod
    def read(cls, head: str) -> LibraryCache | None:
        """Read `pab2`, `fastercache2`, `fbc0.1`, `taylorseer3`, `taylorseer3-o2` and `magcache0.06`."""
        match = re.fullmatch(f"(pab|fastercache|fbc|magcache|taylorseer){UNSIGNED}(?:-o{UNSIGNED})?", head)
        if not match or (match[3] and match[1] != "taylorseer"):
            return None
        return cls(match[1], read_number(match[2]), read_number(match[3] or "1"))  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"{self.kind}{as_text(self.amount)}" + (f"-o{self.order}" if self.order != 1 else "")

    @property
    def shares(self) -> bool:  # type: ignore[override]
        """Whether forwards of a step share a memory, in which diffusers keeps them apart by name, or does not (PAB)."""
        return self.kind != "fastercache"

    @property
    def family(self) -> str:
        """Name of the family."""
        return FAMILIES[self.kind]

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """diffusers' hooks, with the states of this path."""
        from interventions.network.library_caches import attached, config
        from interventions.network.second import running

        base, offset = running(network), memory.setdefault("forwards", 0)
        memory["forwards"] = offset + 1
        return attached(base, config(self, base, offset, len(self.window(at.steps))), memory, self)

    def fingerprint(self, network: Any) -> str:
        """The version of diffusers. Raises `SpecError` for a network that this cache cannot be put on."""
        from interventions.network.library_caches import check, version

        check(self, network)
        return f"diffusers {version()}"
