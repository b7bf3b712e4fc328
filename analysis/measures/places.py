"""At which places the heaviest keys of the clean arm sit, whether they are the same whatever the sample, and whether
they stay with their positions when the picture is moved under the positional encoding.

Each share of top keys and of mass stands beside the share that the place has of the keys. What makes a key heavy is not
asked here; what its removal does is `sinks`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import pairing, runs, statistics
from analysis.common.pairing import Runs
from analysis.measure import shipped
from analysis.measures import places_figure
from analysis.measures import whereabouts as where
from analysis.measures.places_follow import followed

QUANTITIES = ("top keys", "mass")
OVER = ("samples", "steps", "layers")
ALPHA = 0.05
ROUNDING = 1e-9
"""Shares closer to what is expected are equal to it."""


@shipped
def places(several: Runs, *, top: int = 1, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Places of the heaviest keys of the clean arm of a run; with a second run, made with `--moved`, what they follow.

    `share` (quantity, place, bound): of the `top` keys of each layer and step, and of the mass, that lie in a place;
    `expected` (place): its share of the keys; `ratio` (quantity, place, bound): one over the other, 1 for attention
    that does not look where; `p` (quantity, place) two-sided from the t test over samples, `p_holm` over all of them.
    `ratio_of_layer` (quantity, place, layer, bound), `ratio_of_step`. Places of the grid are looked for among the image
    keys alone (`among`), and words among the text's where a block attends to image and text in calls of their own.
    `persistence` (keys, over, bound): what share of their top keys two samples have in common, or two steps, or two
    layers; `persistence_expected` (keys): of sets that lie anywhere. `distinct` (keys): top keys that differ over
    samples, mean over layers and steps. `strength` (keys, layer, step): mass of the heaviest key over the mean of the
    others. `map` (token_frame, token_y, token_x): share of cases in which an image key is among the top ones.

    Moved: `follows` (frame, follow, when, bound), what the two runs share "at the same position" and "with the content"
    among the image keys: of the top keys, and as correlation of mass; `follows_difference` (follow, when, bound),
    position minus content; `follows_expected` (follow). Intervals are BCa over samples.

    Raises RunError without recorded mass or kinds of tokens, and for runs that are not a plain and a moved one.
    """
    trees = pairing.as_list(several)
    plain, moved = _plain_and_moved(trees)
    run = runs.complete(plain)
    mass, attention = _mass(run), run["attention"].ds
    among = where.among_of(attention, mass)
    found = where.places_of(attention, mass.sizes["sample"], among)
    fewest = min(int(inside.sum()) for inside in among.values())
    if not 1 <= top < fewest:
        raise runs.RunError(f"--top {top}: from 1 to {fewest - 1}, one less than there are keys to choose among")
    result = _described(mass, found, among, attention, top, confidence, seed)
    if moved is not None:
        result = result.merge(followed(plain, moved, top=top, confidence=confidence, seed=seed))
    result.attrs = {
        "title": runs.title(run),
        "samples": mass.sizes["sample"],
        "top": top,
        "confidence": confidence,
        "keys": mass.sizes["token"],
        "moved": "" if moved is None else " x ".join(map(str, _moved_by(moved))),
    }
    return result


def _plain_and_moved(trees: list[xr.DataTree]) -> tuple[xr.DataTree, xr.DataTree | None]:
    moved = [bool(_moved_by(run)) for run in trees]
    if len(trees) == 1:
        return trees[0], None
    if sorted(moved) != [False, True]:
        raise runs.RunError(
            f"`places` takes one run, or a plain run and one made with --moved; {len(trees)} runs were given, "
            f"{sum(moved)} of them moved: repeat the plain run's command with `--moved half`"
        )
    return trees[moved.index(False)], trees[moved.index(True)]


def _moved_by(run: xr.DataTree) -> list[int]:
    """(frames, rows, columns) that the picture of a run was moved by; empty where it was not."""
    return list(runs.configuration(run).get("moved") or [])


def _mass(run: xr.DataTree) -> xr.DataArray:
    """Recorded mass of the clean arm, (layer, sample, step, token), not read yet, of the layers that have some."""
    return where.recorded(runs.need(run, "attention/mass_layer", "norms,mass").sel(arm=runs.CLEAN))


def _described(
    mass: xr.DataArray,
    found: Mapping[str, np.ndarray],
    among: Mapping[str, np.ndarray],
    attention: xr.Dataset,
    top: int,
    confidence: float,
    seed: int,
) -> xr.Dataset:
    """Shares, persistence and strength of one run, a layer at a time."""
    names, keys = [*found], {name: where.keys_of(name, among) or "" for name in found}
    shares, common, along, sets, distinct, strength = [], [], [], [], [], []
    often: list[np.ndarray] = []
    for layer in range(mass.sizes["layer"]):
        values = np.asarray(mass.isel(layer=layer).values, np.float64)  # [sample, step, token]
        tops = {own: where.top_keys(values[..., inside], top) for own, inside in among.items()}
        within = {
            own: values[..., inside] / values[..., inside].sum(-1, keepdims=True) for own, inside in among.items()
        }
        pairs = (
            (tops[keys[name]] / top, within[keys[name]], found[name][:, None, among[keys[name]]]) for name in names
        )
        shares.append([[(each * there).sum(-1) for each in (tip, part)] for tip, part, there in pairs])
        common.append([where.shared_between_samples(each, top).mean(-1) for each in tops.values()])
        along.append([where.shared_along(each, 1, top) for each in tops.values()])
        sets.append(list(tops.values()))
        distinct.append([_distinct(each) for each in tops.values()])
        strength.append([_strength(each) for each in within.values()])
        often += [tops[where.IMAGE].mean((0, 1))] if where.IMAGE in tops else []
    of = np.moveaxis(np.array(shares), [2, 1], [0, 1])  # [quantity, place, layer, sample, step]
    expected = np.array([found[name][:, among[keys[name]]].mean() for name in names])
    over_layers = [np.mean([where.shared_along(np.stack(step, 1), 1, top) for step in _steps(sets, k)], 0) for k in
                   range(len(among))]  # fmt: skip
    persistence = np.stack([np.mean(common, 0), np.mean(along, 0), np.array(over_layers)], axis=1)
    how = {"confidence": confidence, "seed": seed}
    excess = np.round((of - expected[:, None, None, None]).mean((2, 4)), int(-np.log10(ROUNDING)))
    p = np.minimum(2 * np.minimum(statistics.p_above(excess), statistics.p_below(excess)), 1)
    data = {
        "share": (("quantity", "place", "bound"), _bounds(of.mean((2, 4)), **how)),
        "expected": ("place", expected),
        "p": (("quantity", "place"), p),
        "p_holm": (("quantity", "place"), statistics.holm(p)),
        "persistence": (("keys", "over", "bound"), _bounds(persistence, **how)),
        "persistence_expected": ("keys", np.array([top / inside.sum() for inside in among.values()])),
        "distinct": ("keys", np.mean(distinct, 0)),
        "strength": (("keys", "layer", "step"), np.array(strength).swapaxes(0, 1)),
    }
    few = {**how, "resamples": runs.BAND_RESAMPLES}
    scale = expected[None, :, None]
    data["ratio"] = ("quantity", "place", "bound"), data["share"][1] / scale
    data["ratio_of_layer"] = ("quantity", "place", "layer", "bound"), _bounds(of.mean(4), **few) / scale[..., None]
    of_step = np.moveaxis(of.mean(2), 2, 3)
    data["ratio_of_step"] = ("quantity", "place", "step", "bound"), _bounds(of_step, **few) / scale[..., None]
    coords: dict[str, object] = {
        "quantity": list(QUANTITIES),
        "place": names,
        "bound": list(statistics.BOUNDS),
        "over": list(OVER),
    }
    coords |= {"keys": [*among], "among": ("place", [keys[name] for name in names])}
    result = xr.Dataset(data, coords=coords)
    return result.merge(_map(np.mean(often, 0) / top, attention)) if often else result


def _steps(sets: list[list[np.ndarray]], which: int) -> list[list[np.ndarray]]:
    """For every step the sets [sample, key] of all layers, of one kind of keys."""
    return [[layer[which][:, step] for layer in sets] for step in range(sets[0][which].shape[1])]


def _strength(shares: np.ndarray) -> np.ndarray:
    """Mass of the heaviest key over the mean of the others, mean over samples: [sample, step, key] -> [step]."""
    most = shares.max(-1)
    with np.errstate(divide="ignore"):
        return (most * (shares.shape[-1] - 1) / (1 - most)).mean(0)


def _distinct(tops: np.ndarray) -> float:
    """How many keys are among the top ones of some sample, mean over steps; tied keys all count."""
    return float((tops > 0).any(0).sum(-1).mean())


def _bounds(values: np.ndarray, **how: object) -> np.ndarray:
    """Mean over samples, the last axis, between its limits: [..., bound]."""
    found = statistics.bca(values, **how)  # type: ignore[arg-type]
    return np.stack([found.low, found.estimate, found.high], axis=-1)


def _map(often: np.ndarray, attention: xr.Dataset) -> xr.Dataset:
    """How often every image key is among the top ones, on its grid."""
    if "token_y" not in attention.coords or not (attention["token_y"].values >= 0).any():
        return xr.Dataset()
    cells = where.cells_of(attention)
    cells = cells[:, cells[1] >= 0]
    if len(often) != cells.shape[1]:
        return xr.Dataset()
    grid = np.full(tuple(int(side.max()) + 1 for side in cells), np.nan)
    grid[tuple(cells)] = often
    return xr.Dataset({"map": (("token_frame", "token_y", "token_x"), grid)})


# --- presentation ---


@places.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per place and quantity, then what is shared and, for a moved run, what the sinks follow."""
    rows = []
    for quantity in dataset["quantity"].values:
        for place in dataset["place"].values:
            at = dataset.sel(quantity=quantity, place=place)
            cells = _cells(at["ratio"]) | {"expected": 1.0, "p (Holm)": float(at["p_holm"])}
            told = f"{at['among'].item()}, {float(at['expected']):.1%} of them"
            rows.append({"measure": f"{quantity} / expected", "where": str(place), "among": told, **cells})
    for keys in dataset["keys"].values:
        at = dataset.sel(keys=keys)
        expected = float(at["persistence_expected"])
        for over in OVER:
            cells = _cells(at["persistence"].sel(over=over)) | {"expected": expected}
            rows.append({"measure": f"top keys that two {over} share", "where": "", "among": str(keys), **cells})
        rows.append({"measure": "different top keys", "where": "", "among": str(keys), "mean": float(at["distinct"])})
        strongest = float(at["strength"].mean("step", skipna=False).max(skipna=True))
        name = "heaviest key / mean of the others, in its strongest layer"
        rows.append({"measure": name, "where": "", "among": str(keys), "mean": strongest, "expected": 1.0})
    for when in dataset["when"].values if "follows" in dataset else []:
        for follow in dataset["follow"].values:
            at = dataset.sel(when=when, follow=follow)
            for frame in at["frame"].values:
                cells = _cells(at["follows"].sel(frame=frame)) | {"expected": float(at["follows_expected"])}
                rows.append({"measure": f"moved: {follow} {frame}", "where": str(when), "among": where.IMAGE, **cells})
            cells = _cells(at["follows_difference"]) | {"expected": 0.0}
            name = f"moved: {follow}, position - content"
            rows.append({"measure": name, "where": str(when), "among": where.IMAGE, **cells})
    return pd.DataFrame(rows, columns=["measure", "where", "among", "expected", "low", "mean", "high", "p (Holm)"])


def _cells(values: xr.DataArray) -> dict[str, float]:
    low, mean, high = (float(bound) for bound in runs.bounds(values))
    return {"low": low, "mean": mean, "high": high}


@places.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """Places with more of the top keys than expected, how much the samples agree, and what a moved run shows."""
    head = f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples, clean arm: "
    count = dataset.attrs["top"]
    named = "the heaviest key of a layer and step" if count == 1 else f"the {count} heaviest keys of a layer and step"
    parts = [f"{named} {_where(dataset)}", *(_agreement(dataset, str(keys)) for keys in dataset["keys"].values)]
    if "follows" in dataset:
        parts.append(_follow(dataset))
    return head + " ".join(parts)


def _where(dataset: xr.Dataset) -> str:
    at = dataset.sel(quantity="top keys")
    sure = (at["p_holm"] < ALPHA) & (at["ratio"].sel(bound="estimate") > 1)
    order = at["ratio"].sel(bound="estimate").where(sure, drop=True)
    if not order.size:
        return "shows no preference for any place (no ratio above 1 with Holm p < 0.05, which is no evidence of none)."
    texts = []
    for place in order.sortby(order, ascending=False)["place"].values:
        low, mean, high = (float(value) for value in runs.bounds(at["ratio"].sel(place=place)))
        share = float(at["share"].sel(place=place, bound="estimate"))
        texts.append(f"{place} {share:.0%}, {mean:.2g} times its share of the keys [{low:.2g}, {high:.2g}]")
    return f"sits more often than expected at: {'; '.join(texts)}."


def _agreement(dataset: xr.Dataset, keys: str) -> str:
    at = dataset.sel(keys=keys)
    low, mean, high = (float(value) for value in runs.bounds(at["persistence"].sel(over="samples")))
    return (
        f"Among {keys} two samples share {mean:.0%} [{low:.0%}, {high:.0%}] of it (anywhere: "
        f"{float(at['persistence_expected']):.1%}); {float(at['distinct']):.1f} different ones in all samples."
    )


def _follow(dataset: xr.Dataset) -> str:
    at = dataset.sel(follow="top keys", when="first step")
    low, mean, high = (float(value) for value in runs.bounds(at["follows_difference"]))
    stays, goes = (float(value) for value in at["follows"].sel(bound="estimate").values)
    alike = dataset["follows"].sel(follow="mass (correlation)", when="first step", bound="estimate").values
    told = "the top image key stays at its position" if low > 0 else "it goes with the content" if high < 0 else ""
    told = told or "which of the two it follows is not told"
    return (
        f"With the picture moved by {dataset.attrs['moved']} under its positions, in the first step {told}: shared at "
        f"the same position {stays:.0%}, with the content {goes:.0%} (anywhere "
        f"{float(at['follows_expected']):.1%}), difference {mean:+.2f} [{low:.2f}, {high:.2f}]. The mass of image keys "
        f"correlates {alike[0]:.2f} at the same position and {alike[1]:.2f} with the content."
    )


places.presents("figure")(places_figure.figure)
