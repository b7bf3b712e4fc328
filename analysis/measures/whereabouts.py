"""Arithmetic of where the heaviest keys sit: the places of tokens, sets of top keys without ties broken, what two sets
share.

A set of top keys is a weight for each key, 1 inside and 0 outside; keys of equal mass share what is left of the set, so
that uniform attention has no favourite. `places` reports it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from analysis.common import runs

ALL, IMAGE, TEXT = "all keys", "image keys", "text keys"
KINDS_OF = ("image", "text", "prefix", "other padding")
WORDS = ("first text token", "other words", "text padding")
"""Places of which kind, and of what within the text; the others are parts of the grid."""
KIND = {"image": 0, "text": 1, "prefix": 2, "other padding": 3}
"""Numbers of `token_kind` in the store."""


def among_of(attention: xr.Dataset, mass: xr.DataArray) -> dict[str, np.ndarray]:
    """The sets of keys that compete for attention, bool [token] each: all keys and the image's; or, where a block
    attends to image and text in calls of their own (PixArt, Wan, UNets), the image's and the text's.

    mass: as `recorded` gives it. Sets of one key, and keys of which no mass was recorded (SANA's image), are left out.
    Raises RunError without kinds of tokens.
    """
    if "token_kind" not in attention.coords:
        raise runs.RunError("this run does not say what its tokens are (token_kind): run it again")
    one = np.asarray(mass.isel(layer=0, sample=0, step=0).values, np.float64)
    there, kind = np.isfinite(one), attention["token_kind"].values
    image, text = (there & (kind == KIND[name]) for name in ("image", "text"))
    apart = one[there].sum() > 1.5 or not image.any()  # each call's mass sums to 1
    found = {IMAGE: image, TEXT: text} if apart else {ALL: there, IMAGE: image}
    if not apart and image.all():
        del found[ALL]
    return {name: keys for name, keys in found.items() if keys.sum() > 1}


def keys_of(place: str, among: Mapping[str, np.ndarray]) -> str | None:
    """The keys among which a place is looked for; None where it does not compete with others."""
    if place in KINDS_OF:
        return ALL if ALL in among else None
    wanted = (ALL, TEXT) if place in WORDS else (IMAGE,)
    return next((name for name in wanted if name in among), None)


def places_of(attention: xr.Dataset, samples: int, among: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Place -> bool [sample, token], the places that some key of its set in `among` has and not every one.

    A corner is one of the four of every frame, the border the rest of its edge, the centre the middle half of rows and
    columns (3 x 3 of 5 x 5). The first text token, other words and text padding share the text between them; without
    `token_padding` all text that is not the first counts as words.
    """
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
    sets = {name: among[keys] for name in every if (keys := keys_of(name, among))}
    return {
        name: every[name]
        for name, keys in sets.items()
        if every[name][:, keys].any() and not every[name][:, keys].all()
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
    """Mass as (layer, sample, step, token), not read yet, of the layers that attend over all tokens that any does.

    The refiners of Z-Image attend over the image or the text alone, and say nothing (NaN) of the other.
    """
    mass = mass.transpose("layer", "sample", "step", "token")
    there = np.isfinite(np.asarray(mass.isel(sample=0, step=0).values))  # [layer, token]
    return mass.isel(layer=np.flatnonzero((there == there.any(0)).all(-1)))


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
