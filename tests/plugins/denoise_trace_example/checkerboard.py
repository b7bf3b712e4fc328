"""Checkerboard masks `C2`: cells of 2 x 2 tokens, and a query reads the tokens of the cells of its own colour."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interventions import Graph
from interventions.errors import spec_error
from interventions.scope import NUMBER, read_number, whole


@dataclass(frozen=True)
class Checkerboard(Graph):
    """`C2`: a query reads the tokens of its own colour, on a checkerboard with cells of 2 x 2 tokens."""

    side: int
    example: ClassVar[str] = "C2"
    heads: ClassVar[tuple[str, ...]] = ("C2",)
    nearly: ClassVar[tuple[tuple[str, str, str], ...]] = ((rf"C{NUMBER}", r"C\1", "write it in capitals"),)
    solvers: ClassVar[tuple[str, ...]] = ("checkerboard",)

    def __post_init__(self) -> None:
        """Refuse cells without a token."""
        object.__setattr__(self, "side", whole("cell C", self.side, 1, "C2"))
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> "Checkerboard | None":
        """Read `C2`."""
        match = re.fullmatch(f"C{NUMBER}", head)
        return cls(read_number(match[1])) if match else None

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return f"C{self.side}"

    @property
    def family(self) -> str:
        """Name of the family."""
        return "checkerboard"

    @property
    def drawn(self) -> bool:
        """Say no: nothing is left to chance."""
        return False

    def graph(self, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
        """Return bool [query, key], True between tokens of one colour."""
        row, column = np.indices(grid)
        colour = ((row // self.side + column // self.side) % 2).ravel()
        return colour[:, None] == colour

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Raise `SpecError` where a cell covers the grid, so that there is one colour."""
        if self.side >= max(grid):
            raise spec_error(
                f"cell C{self.side}", f"it covers a {grid[0]}x{grid[1]} grid", f"C{max(1, max(grid) // 2)}"
            )

    @classmethod
    def candidates(cls, solver: str, target: float, grid: tuple[int, int]) -> list[tuple["Checkerboard", float]]:
        """Return all cells that fit the grid; with n of N tokens in one colour the density is (n^2 + (N - n)^2) / N^2."""
        return [(cls(side), float(cls(side).graph(grid).mean())) for side in range(1, max(grid))]
