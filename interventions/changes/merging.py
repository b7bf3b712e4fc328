"""Token merging: `tome0.5` merges half of the image tokens before each self attention and spreads its output again.

ToMe for Stable Diffusion (Bolya and Hoffman, arXiv:2303.17604) with their settings and their code, tomesd: one token of
every 2 x 2 is kept as a destination, the most similar of the others are averaged into it, attention runs on what is
left, and every merged token gets its destination's output. tomesd's own patch knows the blocks of UNets and DiT alone;
here its merging is put around the attention modules of any block, so SD3's joint blocks are reached as well (their
image tokens are merged, their text tokens are not) and `layers=` works. Destinations are drawn anew in every forward,
by step and call alone: the same whatever the batch, and after a resumed run. It skips the draw where a batch is odd;
here nothing hangs on the batch.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.errors import spec_error
from interventions.scope import UNSIGNED, as_text

MOST = 0.75
"""One token of every 2 x 2 stays."""


@dataclass(frozen=True)
class TokenMerging(Change):
    """`tome0.5`: this share of the image tokens is merged around every self attention."""

    share: float
    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause", "strength"})
    example: ClassVar[str] = "tome0.5"
    heads: ClassVar[tuple[str, ...]] = ("tome0.5",)
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (rf"to(?:me|ken-?merging)[-_ =]?{UNSIGNED}", r"tome\1", "the share stands directly behind"),
        (r"tome(?:sd)?", "tome0.5", "the share of merged tokens is missing"),
    )
    noun: ClassVar[str] = "token merging"

    def __post_init__(self) -> None:
        """Refuse shares that cannot be merged."""
        share = float(self.share)
        if not 0 <= share <= MOST:
            why = "it is the share of image tokens that is merged, from 0 to 0.75: one of every 2 x 2 stays"
            raise spec_error(f"tome{as_text(share)}", why, "tome0.5")
        object.__setattr__(self, "share", share)
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> TokenMerging | None:
        """Read `tome0.5`."""
        match = re.fullmatch(f"tome{UNSIGNED}", head)
        return cls(float(match[1])) if match else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"tome{as_text(self.share)}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "token-merging"

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """Attention modules that see merged tokens."""
        from interventions.network.blocks import blocks
        from interventions.network.merging import merged
        from interventions.network.second import running

        base = running(network)
        return merged(base, blocks(base, self.scope.layers, self), self.share, draw=(at.step, at.call), spec=self)

    def fingerprint(self, network: Any) -> str:
        """The version of tomesd."""
        from interventions.network.merging import version

        return f"tomesd {version()}, 2 x 2"
