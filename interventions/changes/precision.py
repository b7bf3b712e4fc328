"""The network in half precision: `bf16`, `fp16`. A converted copy, as a pipeline that is loaded in that type.

No autocast: weights and activations are of the type, timesteps keep theirs. The states, the sampler's arithmetic and
the clean arm stay as they are, so the arm is what `--dtype` changes of a whole run, in one run. Of fp16 values beyond
65504 are infinite: where a network makes them, the run says that the arm diverged.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory
from interventions.errors import spec_error

TYPES = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Precision(Change):
    """`bf16`, `fp16`: the whole network in this type."""

    type: str
    example: ClassVar[str] = "bf16"
    heads: ClassVar[tuple[str, ...]] = ("bf16", "fp16")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (r"bfloat[-_ ]?16", "bf16", "it is written short"),
        (r"(?:float[-_ ]?16|half|f16)", "fp16", "it is written short"),
    )
    noun: ClassVar[str] = "precision"
    replaces: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse other types."""
        if self.type not in TYPES:
            raise spec_error(f"type {self.type!r}", f"it is one of {', '.join(TYPES)}", "bf16")
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> Precision | None:
        """Read `bf16` and `fp16`."""
        return cls(head) if head in TYPES else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return self.type

    @property
    def family(self) -> str:
        """Name of the family."""
        return "precision"

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The converted network in the place of the clean one; it is made once."""
        from interventions.network.precision import converted
        from interventions.network.second import instead

        return instead(network, self.name, lambda clean: converted(clean, TYPES[self.type], self))

    def fingerprint(self, network: Any) -> str:
        """The version of torch: rounding hangs on its kernels."""
        from interventions.network.precision import version

        return f"{TYPES[self.type]}, torch {version()}"
