"""How attention mass is spread over tokens: its kinds, its concentration, the place of its top keys and their overlap.

Arithmetic on recorded mass, one layer of one arm at a time so that memory stays bounded; `sinks` reports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from analysis.common import runs
from analysis.common.statistics import BOUNDS
from analysis.measures.removal import KINDS

TOP = 5
"""Keys in a set of top keys, where the run kept no ranked keys (record `sinks`) that say how many."""
SPREAD = (0.1, 0.9)
"""Bands of the descriptive curves: quantiles over samples. Intervals of the effect are BCa."""
COMPARED_SAMPLES = 64
"""Overlaps between samples, and between all pairs of steps, are taken over at most this many samples."""


def top_count(run: xr.DataTree) -> int:
    """How many keys the sets of top keys hold: as many as the run ranked, all if there are fewer."""
    sizes = run["attention"].sizes
    return int(min(sizes.get("rank", TOP), sizes.get("token", TOP)))


def token_kinds(run: xr.DataTree) -> xr.DataArray | None:
    """Index into `removal.KINDS` per (sample, token); None without token kinds.

    Padding is text that the coordinate or variable `token_padding` (sample, token) marks; where a run lacks it, all
    text counts as text.
    """
    attention = run["attention"].ds if "attention" in run.children else None
    if attention is None or "token_kind" not in attention.coords:
        return None
    names = np.array([KINDS.index(name) for name in ("image", "text", "prefix", "padding")])
    plain = names[attention["token_kind"].values]
    kinds = np.repeat(plain[None], attention.sizes["sample"], axis=0)
    if "token_padding" in attention.variables:
        padding = attention["token_padding"].transpose("sample", "token").values.astype(bool)
        kinds = np.where(padding, KINDS.index("padding"), kinds)
    return xr.DataArray(kinds, dims=("sample", "token"))


def described(run: xr.DataTree) -> xr.Dataset:
    """Every description of every arm and layer of a run with recorded mass; variables as `sinks.sinks` lists them."""
    mass = run["attention"]["mass_layer"].transpose("arm", "layer", "sample", "step", "token")
    mass = mass.sel(arm=[arm for arm in mass["arm"].values if str(arm) != runs.FULL])
    kinds, count = token_kinds(run), top_count(run)
    attention = run["attention"].ds
    per_arm, clean_sets = [], {}
    for arm in mass["arm"].values:
        per_layer = []
        for layer in range(mass.sizes["layer"]):
            values = np.asarray(mass.sel(arm=arm).isel(layer=layer).values, np.float64)  # [sample, step, token]
            top = _top_sets(values, count)
            if str(arm) == runs.CLEAN:
                clean_sets[layer] = top
            part = _layer(values, top, clean_sets.get(layer), kinds)
            per_layer.append(part.merge(_positions(values, attention)))
        per_arm.append(xr.concat(per_layer, dim="layer"))
    result = xr.concat(per_arm, dim=xr.Variable("arm", mass["arm"].values.astype(str)))
    tokens = mass.sizes["token"]
    counted = None if kinds is None else (kinds.values[..., None] == np.arange(len(KINDS))).mean((0, 1))
    top_key = result["top_mass"].sel(top=1, bound="estimate").mean("layer", skipna=False)
    highest = top_key.fillna(-1).argmax("step") / max(top_key.sizes["step"] - 1, 1)
    result["peak"] = highest.where(top_key.notnull().all("step"))
    result["first_token"] = result["first_token"].mean(("step", "layer"), skipna=False)
    result["uniform"] = 1.0 / tokens
    result["chance"] = _chance(tokens, count)
    if counted is not None:
        result["kind_count"] = ("kind", counted)
    names = attention["layer_name"].values if "layer_name" in attention.coords else None
    if names is not None and len(names) == mass.sizes["layer"]:
        result = result.assign_coords(layer_name=("layer", names))
    coords = {name: attention[name] for name in ("sigma", "timestep") if name in attention.coords}
    return result.assign_coords({name: ("step", value.values) for name, value in coords.items()})


def _layer(values: np.ndarray, top: np.ndarray, clean: np.ndarray | None, kinds: xr.DataArray | None) -> xr.Dataset:
    """Every description of one layer of one arm: values [sample, step, token], top sets [sample, step, rank].

    NaN in the steps whose attention is not known, as under a change of the network or a user's attention function.
    """
    ranked = np.take_along_axis(values, top, axis=-1)
    data: dict[str, Any] = {
        "top_mass": (("step", "top", "bound"), _bands(np.stack([ranked[..., 0], ranked.sum(-1)], axis=-1))),
        "gini": (("step", "bound"), _bands(gini(values))),
        "first_token": ("step", (top[..., 0] == 0).mean(0)),
        "step_overlap": (("step", "other_step"), _step_overlap(top[:COMPARED_SAMPLES])),
        "sample_overlap": ("step", _sample_overlap(top[:COMPARED_SAMPLES])),
    }
    if clean is not None:
        data["clean_overlap"] = (("step", "bound"), _bands(jaccard(top, clean)))
    if kinds is not None:
        of = kinds.values[:, None, :] == np.arange(len(KINDS))[:, None, None, None]  # [kind, sample, 1, token]
        shares = np.stack([np.where(kind, values, 0.0).sum(-1) for kind in of], axis=-1)
        first = np.take_along_axis(kinds.values[:, None, :], top[..., :1], axis=-1)
        data["kind_mass"] = (("step", "kind", "bound"), _bands(shares))
        data["sink_kind"] = (("step", "kind"), (first == np.arange(len(KINDS))).mean(0))
    coords = {"top": [1, top.shape[-1]], "bound": list(BOUNDS), "kind": list(KINDS)}
    described = xr.Dataset(
        data, coords={name: value for name, value in coords.items() if name != "kind" or kinds is not None}
    )
    known = xr.DataArray(np.isfinite(values).all((0, 2)), dims="step")
    if known.all():
        return described
    described["step_overlap"] = described["step_overlap"].where(known.rename(step="other_step"))
    return described.where(known)


def _bands(values: np.ndarray) -> np.ndarray:
    """[sample, ...] -> [..., bound]: quantile, mean, quantile over samples."""
    low, high = np.quantile(values, SPREAD, axis=0)
    return np.stack([low, values.mean(0), high], axis=-1)


def _top_sets(values: np.ndarray, count: int) -> np.ndarray:
    """Tokens of the `count` largest masses, descending, [..., rank]."""
    some = np.argpartition(values, values.shape[-1] - count, axis=-1)[..., -count:]
    order = np.argsort(-np.take_along_axis(values, some, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(some, order, axis=-1)


def gini(values: np.ndarray) -> np.ndarray:
    """Gini coefficient over the last axis: 0 for equal shares, 1 - 1/n for one key that has all."""
    ordered = np.sort(values, axis=-1)
    n = values.shape[-1]
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return (ordered * ranks).sum(-1) / (n * ordered.sum(-1))


def jaccard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shared over united tokens of two sets [..., rank] of equal size, each without repeats."""
    shared = (first[..., :, None] == second[..., None, :]).sum((-1, -2))
    return shared / (2 * first.shape[-1] - shared)


def _chance(tokens: int, count: int) -> float:
    """Expected Jaccard overlap of two random sets: hypergeometric mean of s / (2k - s)."""
    shared = np.arange(count + 1)
    return float((stats.hypergeom.pmf(shared, tokens, count, count) * shared / (2 * count - shared)).sum())


def _step_overlap(top: np.ndarray) -> np.ndarray:
    """Mean overlap over samples between every two steps, [step, step]."""
    steps = top.shape[1]
    overlap = np.ones((steps, steps))
    for lag in range(1, steps):
        mean = jaccard(top[:, lag:], top[:, :-lag]).mean(0)
        later = np.arange(lag, steps)
        overlap[later, later - lag] = overlap[later - lag, later] = mean
    return overlap


def _sample_overlap(top: np.ndarray) -> np.ndarray:
    """Mean overlap between two different samples, [step]; NaN for a single sample."""
    samples = len(top)
    if samples < 2:
        return np.full(top.shape[1], np.nan)
    total = sum(jaccard(top[lag:], top[:-lag]).sum(0) for lag in range(1, samples))
    return total / (samples * (samples - 1) / 2)


def _positions(values: np.ndarray, attention: xr.Dataset) -> xr.Dataset:
    """Mean mass of the image tokens on their grid over samples, steps and frames, in units of 1 / tokens."""
    if "token_y" not in attention.coords or not (attention["token_y"].values >= 0).any():
        return xr.Dataset()
    y, x = attention["token_y"].values.astype(int), attention["token_x"].values.astype(int)
    image, shape = y >= 0, (y.max() + 1, x.max() + 1)
    cell = np.ravel_multi_index((y[image], x[image]), shape)
    total = np.bincount(cell, values.mean((0, 1))[image] * values.shape[-1], minlength=shape[0] * shape[1])
    frames = np.bincount(cell, minlength=total.size)
    grid = np.divide(total, frames, out=np.full(total.shape, np.nan), where=frames > 0).reshape(shape)
    return xr.Dataset({"position": (("token_y", "token_x"), grid)})
