"""Arithmetic of where the heaviest keys sit: the places of tokens, sets of top keys without ties broken, what two sets
share.

A set of top keys is a weight for each key, 1 inside and 0 outside; keys of equal mass share what is left of the set, so
that uniform attention has no favourite. `places` reports it.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.common import runs

ALL, IMAGE = "all keys", "image keys"
WITHIN = {
    "image": ALL,
    "text": ALL,
    "first text token": ALL,
    "other words": ALL,
    "text padding": ALL,
    "other padding": ALL,
    "prefix": ALL,
    "corner": IMAGE,
    "border": IMAGE,
    "centre": IMAGE,
    "first frame": IMAGE,
    "last frame": IMAGE,
}
"""Place -> the keys among which it is looked for: kinds among all keys, parts of the grid among the image's."""
KIND = {"image": 0, "text": 1, "prefix": 2, "other padding": 3}
"""Numbers of `token_kind` in the store."""


def places_of(attention: xr.Dataset, samples: int) -> dict[str, np.ndarray]:
    """Place -> bool [sample, token], the places that some token has and not every key has.

    A corner is one of the four of every frame, the border the rest of its edge, the centre the middle half of rows and
    columns (3 x 3 of 5 x 5). The first text token, other words and text padding share the text between them; without
    `token_padding` all text that is not the first counts as words. Raises runs.RunError without kinds of tokens.
    """
    if "token_kind" not in attention.coords:
        raise runs.RunError("this run does not say what its tokens are (token_kind): run it again")
    kind = attention["token_kind"].values
    is_text = kind == KIND["text"]
    first = is_text & (np.cumsum(is_text) == 1)
    padding = np.zeros((samples, len(kind)), bool)
    if "token_padding" in attention.variables:
        padding = attention["token_padding"].transpose("sample", "token").values.astype(bool) & is_text
    found = {name: kind == number for name, number in KIND.items()}
    found |= {"first text token": first, "other words": is_text & ~first & ~padding, "text padding": padding & ~first}
    found |= _of_the_grid(attention)
    every = {name: np.broadcast_to(where, padding.shape) for name, where in found.items()}
    among = {ALL: np.ones(padding.shape, bool), IMAGE: np.broadcast_to(kind == KIND["image"], padding.shape)}
    return {
        name: every[name]
        for name, keys in WITHIN.items()
        if name in every and every[name].any() and not (every[name] == among[keys]).all()
    }


def cells_of(attention: xr.Dataset) -> np.ndarray:
    """Int [3, token]: frame, row and column of every token, -1 off the image; frame 0 where there is no time."""
    y, x = (attention[f"token_{name}"].values.astype(int) for name in ("y", "x"))
    frame = attention["token_frame"].values.astype(int) if "token_frame" in attention.coords else np.where(y < 0, -1, 0)
    return np.stack([frame, y, x])


def _of_the_grid(attention: xr.Dataset) -> dict[str, np.ndarray]:
    """Parts of the grid, bool [token] each; none where there is no grid."""
    if "token_y" not in attention.coords or not (attention["token_y"].values >= 0).any():
        return {}
    frame, y, x = cells_of(attention)
    image, (frames, rows, columns) = y >= 0, (int(side.max()) + 1 for side in (frame, y, x))
    at_y, at_x = (y == 0) | (y == rows - 1), (x == 0) | (x == columns - 1)
    middle = (np.abs(2 * y - (rows - 1)) <= rows / 2) & (np.abs(2 * x - (columns - 1)) <= columns / 2)
    found = {"corner": at_y & at_x, "border": at_y ^ at_x, "centre": middle}
    if frames > 1:
        found |= {"first frame": frame == 0, "last frame": frame == frames - 1}
    return {name: where & image for name, where in found.items()}


def recorded(mass: xr.DataArray) -> xr.DataArray:
    """Mass as (layer, sample, step, token), not read yet, without the layers that attend over other tokens (NaN)."""
    mass = mass.transpose("layer", "sample", "step", "token")
    there = np.isfinite(np.asarray(mass.isel(sample=0, step=0).values)).all(-1)
    return mass.isel(layer=np.flatnonzero(there)).drop_vars("layer_name", errors="ignore")


def top_keys(values: np.ndarray, count: int) -> np.ndarray:
    """Weights [..., key] of the `count` largest values: they sum to `count`, and equal values have equal weights."""
    least = np.partition(values, values.shape[-1] - count, axis=-1)[..., -count, None]
    above, tied = values > least, values == least
    left = count - above.sum(-1, keepdims=True)
    return above + tied * (left / tied.sum(-1, keepdims=True))


def shared_between_samples(top: np.ndarray, count: int) -> np.ndarray:
    """How much of its top keys a sample shares with the others, one jackknife pseudo-value a sample: [sample, ...].

    top: weights [sample, ..., key]. Their mean is the mean of sum_key a_key b_key / count over all pairs of samples,
    and their spread over samples is that of this mean (a U-statistic), which the mean over partners would halve. NaN
    for fewer than 3 samples. Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 11.5.
    """
    n = len(top)
    if n < 3:
        return np.full(top.shape[:-1], np.nan)
    own = (top * top).sum(-1)
    row = (top * top.sum(0)).sum(-1) - own
    total = row.sum(0)
    mean, without = total / (n * (n - 1)), (total - 2 * row) / ((n - 1) * (n - 2))
    return (n * mean - (n - 1) * without) / count


def shared_along(top: np.ndarray, axis: int, count: int) -> np.ndarray:
    """The mean over all pairs along an axis of what two sets of top keys share; weights [..., key]; NaN for one."""
    n = top.shape[axis]
    if n < 2:
        return np.full(np.delete(top.shape[:-1], axis), np.nan)
    together = (top.sum(axis) ** 2).sum(-1) - (top**2).sum((axis, -1))
    return together / (n * (n - 1) * count)


def moved(values: np.ndarray, cells: np.ndarray, by: tuple[int, int, int]) -> np.ndarray:
    """Values [..., key] of image keys taken `by` (frames, rows, columns) further on their grid, round its ends.

    cells: [3, key], frame, row and column of each; the keys are the whole grid in any order.
    """
    shape = tuple(int(side.max()) + 1 for side in cells)
    place = np.ravel_multi_index(tuple(cells), shape)
    grid = np.empty((*values.shape[:-1], len(place)))
    grid[..., place] = values
    rolled = np.roll(grid.reshape(*values.shape[:-1], *shape), by, axis=(-3, -2, -1))
    return rolled.reshape(grid.shape)[..., place]


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation over the last axis; NaN where either is constant."""
    a, b = (values - values.mean(-1, keepdims=True) for values in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
