"""What taking keys out of attention does to the result: sink removal against its matched random control.

Each pair of arms (`sink-k5` and `random-k5` with the same path, scope and dose) is compared sample by sample: how far
each ends from the clean arm, and what was taken away. Where the sinks sit is `sinks`; nothing here looks at attention
beyond the removed keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.common import runs, statistics

KINDS = ("image", "text", "padding", "prefix")
DISTANCES = {
    "state": "relative L2 distance of the final states, |masked - clean| / |clean|",
    "image": "root-mean-square difference of the decoded images, in units of the full range",
}
SINK, CONTROL = "sink-keys", "random-keys"  # families
MATCHINGS = {"kinds": "equal count", "mass": "equal attention", "any": "equal count, any keys"}
"""What a random control shares with the sinks, and how that is called."""


def pairs(arms: Sequence[runs.Arm]) -> list[tuple[str, str]]:
    """(sink arm, random arm) that match in path, scope and dose, in the order of the sink arms, then of `MATCHINGS`.

    A sink arm has one control of each matching: as many keys, the same attention, any keys. How a control is drawn and
    whose attention the sinks are found in (`draw`, `source`) may differ; an exact match comes first.
    """
    matched = []
    for sink in (arm for arm in arms if arm.family == SINK):
        for way in MATCHINGS:
            controls = [arm for arm in arms if matching(arm) == way and arm.match == sink.match]
            exact = [arm for arm in controls if _after_kind(arm) == _after_kind(sink)]
            matched += [(sink.name, control.name) for control in (exact or controls)[:1]]
    return matched


def matching(arm: runs.Arm) -> str:
    """What a random arm shares with sinks, one of `MATCHINGS`; empty for other arms."""
    return str(arm.parameters.get("matching", "kinds")) if arm.family == CONTROL else ""


def _after_kind(arm: runs.Arm) -> str:
    """The name of a removal arm without kind and matching: equal for a sink arm and its exact control."""
    return arm.name.partition("-")[2].replace(f"-{matching(arm)}", "", 1)


def shifts(run: xr.DataTree, distance: str = "state") -> xr.DataArray:
    """How far every arm ends from the clean one, (arm, sample), by one of `DISTANCES`. Raises runs.RunError."""
    if distance == "state":
        final = runs.need(run, "metrics/delta_rel", "norms").isel(step=-1)
        return final.astype(np.float64).reset_coords(drop=True).compute()
    if distance == "image":
        images = runs.need(run, "images/image", "images").reset_coords(drop=True)
        clean = images.sel(arm=runs.CLEAN, drop=True).astype(np.float64)
        parts = []
        for arm in images["arm"].values:
            square = (images.sel(arm=arm).astype(np.float64) - clean) ** 2
            parts.append((square.mean(("image_y", "image_x", "rgb"), skipna=False) ** 0.5).compute())
        return xr.concat(parts, dim=images["arm"]) / 255
    raise runs.RunError(
        f"distance {distance!r} is not known: choose {' or '.join(DISTANCES)}, or hand in your own values per arm and "
        "sample with `scores` (LPIPS needs network weights that do not ship)"
    )


def compare(
    values: xr.DataArray, matched: list[tuple[str, str]], *, confidence: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """Sink minus random of a value per (arm, sample), paired by sample, per pair.

    `difference` (pair, bound) is the mean with its BCa interval; `effect_size` the paired d_z; `p` two-sided from the
    paired t test, `p_holm` adjusted over the pairs; `ratio` (pair, bound) the geometric mean of sink over random where
    both are positive, else NaN.
    """
    sink, random = ([pair[side] for pair in matched] for side in (0, 1))
    values = values.transpose("arm", "sample").astype(np.float64)
    first, second = values.sel(arm=sink).values, values.sel(arm=random).values
    both = first - second
    limits = statistics.bca(both, confidence=confidence, seed=seed)
    p = 2 * np.minimum(statistics.p_above(both), statistics.p_below(both))
    positive = ((first > 0) & (second > 0)).all(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(positive, np.log(first) - np.log(second), np.nan)
    ratio = statistics.bca(logs, confidence=confidence, seed=seed)
    bound = ("pair", "bound")
    return xr.Dataset(
        {
            "shift": (("pair", "role", "sample"), np.stack([first, second], axis=1)),
            "difference": (bound, np.stack([limits.low, limits.estimate, limits.high], axis=-1)),
            "ratio": (bound, np.exp(np.stack([ratio.low, ratio.estimate, ratio.high], axis=-1))),
            "effect_size": ("pair", np.atleast_1d(statistics.effect_size(both))),
            "p": ("pair", np.minimum(p, 1.0)),
            "p_holm": ("pair", statistics.holm(np.minimum(p, 1.0))),
        },
        coords={
            "pair": [f"{a} - {b}" for a, b in matched],
            "sink_arm": ("pair", sink),
            "random_arm": ("pair", random),
            "role": ["sink", "random"],
            "bound": list(statistics.BOUNDS),
        },
    )


def removed(run: xr.DataTree, kinds: xr.DataArray) -> xr.Dataset | None:
    """What the removal arms took away, over the calls they acted in; None where `removed_token` was not recorded.

    `kinds` (sample, token): index into `KINDS`. Per arm: `removed_share` (kind), the kinds of the removed keys, sums to
    1; `removed_of_kind` (kind), the share of all keys of a kind that was removed from a head's attention;
    `removed_mass`, the attention that these keys received before they were removed, where that was recorded.
    """
    if not runs.has(run, "attention/removed_token"):
        return None
    tokens = run["attention"]["removed_token"]
    names = [arm.name for arm in runs.arms(run) if arm.match]
    if not names:
        return None
    tokens = tokens.sel(arm=names).transpose("arm", "sample", ...)
    per_kind = (kinds.values[:, :, None] == np.arange(len(KINDS))).sum(1)  # [sample, kind]
    shares, of_kind, masses = [], [], []
    for arm in names:
        chosen = tokens.sel(arm=arm).values  # [sample, step, layer, head, removed]
        calls = (chosen >= 0).any(-1).reshape(len(chosen), -1).sum(1)  # heads acted in, over steps and layers
        counts = np.stack([_count(chosen, kinds.values == k) for k in range(len(KINDS))], axis=-1)  # [sample, kind]
        shares.append(counts.sum(0) / max(counts.sum(), 1))
        of_kind.append(counts.sum(0) / np.where(per_kind.any(0), (per_kind * calls[:, None]).sum(0), np.nan))
        masses.append(_mass(run, arm, chosen))
    return xr.Dataset(
        {
            "removed_share": (("removal", "kind"), np.stack(shares)),
            "removed_of_kind": (("removal", "kind"), np.stack(of_kind)),
            "removed_mass": ("removal", np.array(masses)),
        },
        coords={"removal": names, "kind": list(KINDS)},
    )


def _count(chosen: np.ndarray, is_kind: np.ndarray) -> np.ndarray:
    """How many removed keys [sample, ...] are of a kind, given which tokens are [sample, token]; per sample."""
    flat = chosen.reshape(len(chosen), -1)
    hit = np.take_along_axis(is_kind, np.maximum(flat, 0).astype(np.int64), axis=1)
    return (hit & (flat >= 0)).sum(1)


def _mass(run: xr.DataTree, arm: str, chosen: np.ndarray) -> float:
    """Mean over the heads acted in of the mass their removed keys had; NaN where it was not recorded."""
    if not runs.has(run, "attention/removed_mass"):
        return float("nan")
    mass = run["attention"]["removed_mass"].sel(arm=arm).transpose("sample", ...).values
    acted = (chosen >= 0).any(-1)
    return float(np.where(chosen >= 0, mass, 0.0).sum(-1)[acted].mean()) if acted.any() else float("nan")
