"""The grid of tokens that a state's (frame, y, x) cells make, read off which cell moves each token most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Grid = tuple[int, int, int]


def grid_of(sources: np.ndarray, sizes: Grid) -> tuple[Grid | None, float]:
    """The (frames, height, width) in tokens that fits best, and its agreement; None and 0 where no grid has so many.

    `sources`: int [3, token], the cell of the state that moves each token most. `sizes`: of the state. Tokens are read
    row by row, frame after frame; a token covers equal parts of every axis (the last may be smaller).
    """
    tokens = sources.shape[1]
    fits = ((grid, agreement(sources, sizes, grid)) for grid in grids(sizes, tokens))
    return max(fits, key=lambda fit: fit[1], default=(None, 0.0))


def grids(sizes: Grid, tokens: int) -> list[Grid]:
    """Every grid of so many tokens in which each token covers as many cells as the next."""
    frames, heights, widths = ({-(-size // part) for part in range(1, size + 1)} for size in sizes)
    pairs = itertools.product(sorted(frames), sorted(heights))
    return [(f, h, tokens // (f * h)) for f, h in pairs if tokens % (f * h) == 0 and tokens // (f * h) in widths]


def agreement(sources: np.ndarray, sizes: Grid, grid: Grid) -> float:
    """Share of tokens whose source lies where a row-major reading of the grid puts them."""
    cells = np.unravel_index(np.arange(math.prod(grid)), grid)
    covered = [-(-size // side) for size, side in zip(sizes, grid, strict=True)]
    right = [source // cover == cell for source, cover, cell in zip(sources, covered, cells, strict=True)]
    return float(np.mean(np.all(right, axis=0)))


def halved(sizes: Sequence[int], tokens: int) -> Grid | None:
    """The state's grid halved in height and width until it has so many tokens in a frame, rounding up as strided
    convolutions do; None where it never has."""
    _, height, width = sizes
    while height * width >= tokens:
        if height * width == tokens:
            return (1, height, width)
        if height == width == 1:
            break
        height, width = -(-height // 2), -(-width // 2)
    return None
