"""What the arms that remove keys took away: how many keys, of which kinds, and how much attention these received."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.common import runs
from analysis.measures.removal import KINDS

SHORT = 0.9
"""A head fell short of an equal mass where its keys had less than this share of the sinks'."""
_STORED = ("image", "text", "prefix", "padding")  # the coordinate `kind` of a store


def removed(run: xr.DataTree, kinds: xr.DataArray) -> xr.Dataset | None:
    """What the removal arms took away, over the calls they acted in; None where no removed key was recorded.

    `kinds` (sample, token): index into `KINDS`. Per arm, along `removal`: `removed_number`, keys per head;
    `removed_share` (kind), the kinds of the removed keys, sums to 1; `removed_of_kind` (kind), the share of all keys of
    a kind that was removed from a head's attention; `removed_mass`, the attention that these keys received before they
    were removed, NaN where that was not recorded, and `removed_mass_of` (sample), the same of each sample. Of arms that
    remove a mass: `removed_gap`, the mean over heads of |removed - sinks'| / sinks', and `removed_short`, the share of
    heads that got less than `SHORT` of it: there was no more, or the next key was too large.
    """
    if not runs.has(run, "attention/removed_token"):
        return None
    names = [arm.name for arm in runs.arms(run) if arm.match]
    if not names:
        return None
    per_kind = (kinds.values[:, :, None] == np.arange(len(KINDS))).sum(1)  # [sample, kind]
    found = [_summary(_of_arm(run, name, kinds.values), per_kind) for name in names]
    return xr.concat(found, dim=xr.Variable("removal", names)).assign_coords(kind=list(KINDS))


@dataclass(frozen=True)
class _Taken:
    """Of one arm, over its heads [sample, ...]: number [..., kind], mass and goal [...]; number -1: it did not act."""

    number: np.ndarray
    mass: np.ndarray
    goal: np.ndarray

    @property
    def acted(self) -> np.ndarray:
        """Bool [sample, ...]."""
        return np.asarray((self.number >= 0).all(-1))


def _of_arm(run: xr.DataTree, arm: str, kinds: np.ndarray) -> _Taken:
    attention = run["attention"].ds.sel(arm=arm)
    if "removed_count" in attention:  # a run with an arm that removes a mass: sums in place of tokens
        order = [_STORED.index(kind) for kind in KINDS]
        count, mass, goal = (
            attention[f"removed_{name}"].transpose("sample", ..., "kind").values
            for name in ("count", "together", "goal")
        )
        return _Taken(count[..., order], mass.sum(-1), goal.sum(-1))
    tokens = (
        attention["removed_token"].transpose("sample", ..., "removed").values
    )  # [sample, step, layer, head, removed]
    there = tokens >= 0
    flat = np.maximum(tokens, 0).reshape(len(tokens), -1).astype(np.int64)
    of = np.take_along_axis(kinds, flat, axis=1).reshape(tokens.shape)
    number = np.stack([((of == kind) & there).sum(-1) for kind in range(len(KINDS))], axis=-1)
    number = np.where(there.any(-1, keepdims=True), number, -1)
    none = np.full(number.shape[:-1], np.nan)
    if "removed_mass" not in attention:
        return _Taken(number, none, none)
    mass = attention["removed_mass"].transpose("sample", ..., "removed").values
    return _Taken(number, np.where(there, mass, 0.0).sum(-1), none)


def _summary(taken: _Taken, per_kind: np.ndarray) -> xr.Dataset:
    acted, kind = taken.acted, len(KINDS)
    count = np.where(acted[..., None], taken.number, 0).reshape(len(acted), -1, kind).sum(1)  # [sample, kind]
    heads = acted.reshape(len(acted), -1).sum(1)
    all_keys = (per_kind * heads[:, None]).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(taken.mass - taken.goal)[acted] / taken.goal[acted]
        mass_of = np.where(acted, taken.mass, 0.0).reshape(len(acted), -1).sum(1) / heads
        data = {
            "removed_number": count.sum() / heads.sum(),
            "removed_share": ("kind", count.sum(0) / max(count.sum(), 1)),
            "removed_of_kind": ("kind", count.sum(0) / np.where(per_kind.any(0), all_keys, np.nan)),
            "removed_mass": float(taken.mass[acted].mean()) if acted.any() else np.nan,
            "removed_mass_of": ("sample", mass_of),
            "removed_gap": gap.mean() if gap.size else np.nan,
            "removed_short": ((taken.mass < SHORT * taken.goal)[acted].mean() if np.isfinite(gap).any() else np.nan),
        }
    return xr.Dataset(data)
