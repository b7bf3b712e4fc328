"""What taking keys out of attention does to the result: sink removal against its matched random control.

Each pair of arms (`sink-k5` and `random-k5` with the same path, scope and dose) is compared sample by sample: how far
each ends from the clean arm, and how it scores. Where the sinks sit is `sinks`; nothing here looks at attention
beyond the removed keys. What was taken away is `taken`, distance against attention removed is `dose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from analysis.common import runs, statistics
from analysis.measures import quality

KINDS = ("image", "text", "padding", "prefix")
DISTANCES = {
    "state": "relative L2 distance of the final states, |changed - clean| / |clean|",
    "image": "root-mean-square difference of the decoded images, in units of the full range",
}
SINK, CONTROL = "sink-keys", "random-keys"  # families
MATCHINGS = {"kinds": "equal count", "mass": "equal attention", "any": "equal count, any keys"}
"""What a random control shares with the sinks, and how that is called."""


class Pair(NamedTuple):
    """Names of a sink arm and of one of its random controls, and what they share, one of `MATCHINGS`."""

    sink: str
    random: str
    matching: str


def pairs(arms: Sequence[runs.Arm]) -> list[Pair]:
    """Sink arms with their random arms, which match in path, scope and dose: by sink arm, then as in `MATCHINGS`.

    A sink arm has one control of each matching: as many keys, the same attention, any keys. How a control is drawn and
    whose attention the sinks are found in (`draw`, `source`) may differ; an exact match comes first.
    """
    matched = []
    for sink in (arm for arm in arms if arm.family == SINK):
        for way in MATCHINGS:
            controls = [arm for arm in arms if matching(arm) == way and arm.match == sink.match]
            exact = [arm for arm in controls if _after_kind(arm) == _after_kind(sink)]
            matched += [Pair(sink.name, control.name, way) for control in (exact or controls)[:1]]
    return matched


def matching(arm: runs.Arm) -> str:
    """What a random arm shares with sinks, one of `MATCHINGS`; empty for other arms."""
    return str(arm.parameters.get("matching", "kinds")) if arm.family == CONTROL else ""


def _after_kind(arm: runs.Arm) -> str:
    """The name of a removal arm without kind and matching: equal for a sink arm and its exact control."""
    return arm.name.partition("-")[2].replace(f"-{matching(arm)}", "", 1)


def shifts(run: xr.DataTree, distance: str = "state") -> xr.DataArray:
    """How far every arm ends from the clean one, (arm, sample), by one of `DISTANCES`. Raises RunError."""
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


def scores(run: xr.DataTree, metrics: Sequence[str] | None = None) -> dict[str, xr.DataArray]:
    """The scores of single pictures that lie beside the run, (arm, sample) each: those named, or all there are.

    `attrs["kind"]` is "score", or "to clean" for a distance to the clean picture. Raises RunError for a metric
    that the run is not scored by, or that looks at whole sets.
    """
    if "scores" not in run.children:
        if not metrics:
            return {}
        raise runs.RunError(f"this run is not scored yet: `trace score RUN --metric {' --metric '.join(metrics)}`")
    stored = {name: node.to_dataset() for name, node in run["scores"].children.items()}
    if not metrics:
        stored = {name: group for name, group in stored.items() if "score" in group}
        if all("left_out" in group.attrs for group in stored.values()):
            return {}
    groups = quality.chosen_scores(stored, metrics)[0]
    for name, group in groups.items():
        if "score" not in group:
            raise runs.RunError(
                f"--metric {name}: it looks at whole sets of pictures, and arms are compared picture by picture here; "
                "`trace analyze quality` has it"
            )
    return {
        name: group["score"].reset_coords(drop=True).assign_attrs(kind=group.attrs["kind"]).compute()
        for name, group in groups.items()
    }


def compare(values: xr.DataArray, matched: Sequence[Pair], *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Sink minus random of a value per (arm, sample), paired by sample, per pair.

    `difference` (pair, bound) is the mean with its BCa interval; `effect_size` the paired d_z; `p` two-sided from the
    paired t test, `p_holm` adjusted over the pairs; `ratio` (pair, bound) the geometric mean of sink over random where
    both are positive, else NaN.
    """
    sink, random = [pair.sink for pair in matched], [pair.random for pair in matched]
    ways = [pair.matching for pair in matched]
    values = values.sel(arm=sink + random).transpose("arm", "sample").astype(np.float64)
    values = values.isel(sample=np.flatnonzero(values.notnull().all("arm").values)).drop_duplicates("arm")
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
            "compared": values.sizes["sample"],
            "p_holm": ("pair", statistics.holm(np.minimum(p, 1.0))),
        },
        coords={
            "pair": [f"{pair.sink} - {pair.random}" for pair in matched],
            "sink_arm": ("pair", sink),
            "random_arm": ("pair", random),
            "control": ("pair", [MATCHINGS[way] for way in ways]),
            "role": ["sink", "random"],
            **({"sample": values["sample"].values} if "sample" in values.coords else {}),
            "bound": list(statistics.BOUNDS),
        },
    )
