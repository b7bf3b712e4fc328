"""`clean` and `full`: no intervention, and the all-true mask that shows the numerical floor."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interventions.families.base import Intervention
from interventions.layout import TokenLayout


@dataclass(frozen=True)
class Clean(Intervention):
    """No intervention: the stock, unmasked call."""

    example: ClassVar[str] = "clean"
    heads: ClassVar[tuple[str, ...]] = ("clean",)

    @classmethod
    def read(cls, head: str) -> "Clean | None":
        """Read `clean`."""
        return cls() if head == "clean" else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return "clean"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "clean"

    @property
    def role(self) -> str:
        """It is what every other arm is compared with."""
        return "clean"

    def acts(self, layer: int, step: int, steps: int) -> bool:
        """Say no: it never acts."""
        return False


@dataclass(frozen=True)
class Full(Intervention):
    """An all-true mask through the masked kernel: the numerical floor."""

    noun: ClassVar[str] = "mask"
    options: ClassVar[frozenset[str]] = frozenset({"layers", "steps", "pause"})
    example: ClassVar[str] = "full@layers=6,12,18"
    heads: ClassVar[tuple[str, ...]] = ("full",)

    @classmethod
    def read(cls, head: str) -> "Full | None":
        """Read `full`."""
        return cls() if head == "full" else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return "full"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "full"

    @property
    def role(self) -> str:
        """It shows what the kernel alone changes."""
        return "floor"

    def mask(self, layout: TokenLayout, seed: int = 0) -> np.ndarray:
        """Return an all-true mask over the whole sequence."""
        return np.ones((layout.size, layout.size), dtype=bool)
