"""What all graphs share: distances on the token grid, what a mask must be, and its density.

A graph is a boolean array [query, key]. The graphs themselves are in `families`, one file a family; what kind of graph
a mask is, is for `graph_summary`.
"""

import numpy as np

from interventions.errors import spec_error
from interventions.layout import TokenLayout

Grid = tuple[int, ...]  # (height, width) in tokens, or (frames, height, width)


Tokens = slice | np.ndarray  # some of them, by position
_ALL = slice(None)


def manhattan(grid: Grid, queries: Tokens = _ALL, keys: Tokens = _ALL) -> np.ndarray:
    """Return int16 [query, key]: Manhattan distance between cells of a row-major grid, frames apart included."""
    distance = np.zeros((), dtype=np.int16)
    for axis in np.indices(grid, dtype=np.int16):
        place = axis.ravel()
        distance = distance + np.abs(place[queries, None] - place[keys])
    return distance


def check_mask(mask: np.ndarray) -> None:
    """Raise `SpecError` unless the mask is a boolean [query, key] array in which every query may read some key.

    An empty row is zeros in fused attention and NaN in eager attention, so it is refused.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise spec_error("mask", f"it must be boolean [query, key], not {mask.dtype} {list(mask.shape)}", "R4S32")
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise spec_error(f"mask row {empty[0]}", f"{len(empty)} of {len(mask)} queries may read no key at all", "R4S32")


def density(mask: np.ndarray, layout: TokenLayout | None = None) -> float:
    """Return the share of True among the image-image pairs of the layout, self included; without one, of all pairs.

    mask: bool [query, key], of all tokens of the layout. Raises `SpecError` for a mask of another shape, and for one
    in which a query may attend to nothing.
    """
    mask = np.asarray(mask, dtype=bool)
    if layout is not None:
        if mask.shape != (layout.size, layout.size):
            raise spec_error(
                f"mask {list(mask.shape)}", f"the layout has {layout.size} tokens", "density(spec.mask(layout), layout)"
            )
        mask = mask[layout.image, layout.image]
    check_mask(mask)
    return float(mask.mean())
