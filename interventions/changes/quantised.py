"""Weight-only quantisation: `int8`, `int4`, or any width from 2 to 8 bits, by torchao.

The weights of the linear layers are rounded to n-bit integers with a scale, symmetric about zero, by the largest weight
of a group; embeddings, norms and convolutions keep theirs. Of 8 bits a group is an output channel, of fewer 32 weights
in a row of it; where 32 does not divide a row, it is the whole row. `int4-g64` chooses another size. Source: torchao's
`IntxWeightOnlyConfig` (pytorch/ao), the round-to-nearest baseline of every later method. The weights are dequantised
once: the numbers are those of torchao's own layers, the time is that of the clean network. For a kernel's time give a
network of your own, `tracer.arm(..., model=)`.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.errors import spec_error
from interventions.scope import UNSIGNED, read_number, whole

GROUP = 32
"""Weights that share a scale, of less than 8 bits."""


@dataclass(frozen=True)
class Quantised(Change):
    """`int8`, `int4`, `int4-g64`: the weights of linear layers rounded to so many bits. group 0: a whole row."""

    bits: int
    group: int = 0
    example: ClassVar[str] = "int8"
    heads: ClassVar[tuple[str, ...]] = ("int8", "int4", "int4-g64")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (r"(?:w|q|quant|int)[-_ ]?(\d+)(?:bit)?", r"int\1", "the number of bits stands directly behind"),
        (r"(\d+)[-_ ]?bits?", r"int\1", "the number of bits stands behind"),
    )
    noun: ClassVar[str] = "quantisation"
    replaces: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse other widths than 2 to 8 bits."""
        bits = whole("int", self.bits, 1, self.example)
        if not 2 <= bits <= 8:
            raise spec_error(
                f"int{bits}", "weights have 2 to 8 bits; for half precision there are bf16 and fp16", "int8"
            )
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "group", whole("group g", self.group, 0, "int4-g64"))
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> Quantised | None:
        """Read `int8`, `int4` and `int4-g64`."""
        match = re.fullmatch(f"int{UNSIGNED}(?:-g{UNSIGNED})?", head)
        if not match:
            return None
        bits = read_number(match[1])
        group = whole("group g", read_number(match[2]), 1, "int4-g64") if match[2] else (0 if bits == 8 else GROUP)
        return cls(bits, group)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The spec without its scope."""
        usual = 0 if self.bits == 8 else GROUP
        return f"int{self.bits}" + (f"-g{self.group}" if self.group != usual else "")

    @property
    def family(self) -> str:
        """Name of the family."""
        return "weight-quantisation"

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The quantised network in the place of the clean one; it is made once."""
        from interventions.network.quantise import quantised
        from interventions.network.second import instead

        return instead(network, self.name, lambda clean: quantised(clean, self.bits, self.group))

    def fingerprint(self, network: Any) -> str:
        """The version of torchao, and what a scale is shared by."""
        from interventions.network.quantise import library

        sharing = f"groups of {self.group}" if self.group else "rows"
        return f"torchao {library().__version__}, symmetric, {sharing}"
