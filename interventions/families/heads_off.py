"""Head removal: `off@heads=0,2;layers=3` throws away what these heads of attention read.

The heads' output is zero, as it is with their columns of the output projection at zero; what they attend to is not
changed and is recorded as ever. Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?".
"""

from dataclasses import dataclass
from typing import ClassVar

from interventions.families.base import OnCalls


@dataclass(frozen=True)
class HeadsOff(OnCalls):
    """`off`: attention puts out zero in the heads, layers and query tokens of its scope; a dose a leaves 1 - a."""

    noun: ClassVar[str] = "removal"
    example: ClassVar[str] = "off@heads=0,2"
    heads: ClassVar[tuple[str, ...]] = ("off",)

    @classmethod
    def read(cls, head: str) -> "HeadsOff | None":
        """Read `off`."""
        return cls() if head == "off" else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return "off"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "heads-off"
