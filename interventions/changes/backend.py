"""Another attention kernel: `backend-_native_math`, `backend-flex`, or any other name of diffusers' dispatcher.

The same mathematics by other code, so its error is that of rounding, or of a kernel's own approximation (SageAttention
computes in 8 bits: arXiv:2410.02367). diffusers' `attention_backend` chooses it. Networks whose attention calls PyTorch
directly, past the dispatcher (DiT, SD3, SDXL), can have PyTorch's own kernels: `native`, `_native_math`,
`_native_flash`, `_native_efficient`, `_native_cudnn`.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.changes.base import At, Change, Memory


@dataclass(frozen=True)
class Backend(Change):
    """`backend-NAME`: attention by this backend of diffusers."""

    backend: str
    example: ClassVar[str] = "backend-_native_math"
    heads: ClassVar[tuple[str, ...]] = ("backend-_native_math", "backend-flex")
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = (
        (r"(?:backend[-_ :]?)?(flex|sage|xformers|native)", r"backend-\1", "backend- and the name"),
        (r"(?:backend[-_ :]?)?_?(?:native_?)?(math|flash|efficient|cudnn)", r"backend-_native_\1", "it is so called"),
    )
    noun: ClassVar[str] = "attention kernel"
    countable: ClassVar[bool] = False

    @classmethod
    def read(cls, head: str) -> Backend | None:
        """Read `backend-flex`."""
        match = re.fullmatch(r"backend-(\w+)", head)
        return cls(match[1]) if match else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"backend-{self.backend}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "attention-backend"

    def around(self, network: Any, memory: Memory, at: At) -> AbstractContextManager[None]:
        """The backend in the place of the native one."""
        from interventions.network.backends import attending
        from interventions.network.second import running

        return attending(running(network), self.backend, self)

    def fingerprint(self, network: Any) -> str:
        """The versions of torch and diffusers. Raises `SpecError` for a backend that is unknown or not usable here."""
        from interventions.network.backends import check, versions

        check(network, self.backend, self)
        return versions()
