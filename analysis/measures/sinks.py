"""Where attention sinks sit, how concentrated they are, how they move, and what removing them does to the result.

A sink is a key of top mass (mean over queries, and here over heads, of the attention it receives). Described per arm,
layer and step, with the spread over samples; the effect of removing sinks is compared with matched random removal in
`removal`. It says nothing about why there are sinks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import floor, runs
from analysis.measure import shipped
from analysis.measures import concentration, dose, removal, sinks_figure, taken
from analysis.measures.sinks_figure import present


@shipped
def sinks(
    run: xr.DataTree,
    *,
    metrics: str | Sequence[str] | None = None,
    distance: str = "state",
    scores: xr.Dataset | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Sinks of every arm but the floor, and the effect of removing them where removal arms have their random controls.

    Where: `kind_mass` (arm, layer, step, kind, bound) mass share of image, text, padding and prefix tokens;
    `kind_count` (kind) their share of the tokens; `sink_kind` (arm, layer, step, kind) kind of the top key;
    `position` (arm, layer, token_y, token_x) mass of the image tokens in units of uniform attention, mean over the
    frames of a video; `first_token` (arm) how often token 0 is the top key. How concentrated: `top_mass` (arm, layer,
    step, top, bound) of the 1 and 5 top keys (attrs["top"]), `gini` (arm, layer, step, bound). How they move: mean
    Jaccard overlap of the sets of the 5 top keys, `step_overlap` (arm, layer, step, other_step), `sample_overlap` (arm,
    layer, step), `clean_overlap` (arm, layer, step, bound) with the clean arm; `chance` is that of random sets. `bound`
    is low, estimate, high: here the mean between the quantiles 0.1 and 0.9 over samples, in the effect an interval.

    `peak` (arm): the step of the largest mass of the top key, mean over layers and samples, as a share of the run.

    Effect: the variables of `removal.compare` for the final distance to the clean arm by `distance` ("state" or
    "image"), for the `metrics` of single pictures that lie in `/scores` (None: all there are), and for every (arm,
    sample) variable of `scores` under its name, along `measure` (`scores` may be what `analysis.quality` returns: its
    scores of single pictures are taken). A sink arm is compared with each of its controls, of equal count and of equal
    attention; Holm's p is over all pairs of a measure. Those of `taken.removed`. Those of `dose.excess`, as `dose_...`,
    for the measures that are distances (`dosable`), where a sink arm has two random arms or more. `floor`, the mean
    distance of the arm `full`.

    Raises RunError when the run has neither recorded mass nor a pair of removal arms.
    """
    run = runs.complete(run)
    pairs = removal.pairs(runs.arms(run))
    recorded = runs.has(run, "attention/mass_layer")
    if not recorded and not pairs:
        raise runs.RunError(
            "this run holds neither attention mass nor a sink arm with its random control: run it with "
            "`trace run ... --mask sink-k5 --mask random-k5 --record norms,mass,sinks`"
        )
    parts = [concentration.described(run)] if recorded else []
    if pairs:
        values = _values(run, distance, [metrics] if isinstance(metrics, str) else metrics, scores)
        compared = [removal.compare(value, pairs, confidence=confidence, seed=seed) for value in values.values()]
        parts.append(xr.concat(compared, dim=xr.Variable("measure", list(values)), join="outer"))
        own = floor.measured(run, values[distance])
        parts += [] if own is None else [xr.Dataset({"floor": own.mean(skipna=True)})]
        kinds = concentration.token_kinds(run)
        gone = None if kinds is None else taken.removed(run, kinds)
        parts += [] if gone is None else [gone]
        parts += [] if gone is None else _dose(run, gone, values, confidence, seed)
    result = xr.merge(parts, compat="override", join="outer")
    if recorded:
        result = runs.with_arms(result, run)
    top = concentration.top_count(run) if recorded else concentration.TOP
    result.attrs = {
        "title": runs.title(run),
        "samples": run["metrics"].sizes["sample"],
        "top": top,
        "confidence": confidence,
        "distance": removal.DISTANCES.get(distance, distance),
        "distances": [str(name) for name in result["dosable"].values] if "dosable" in result.dims else [distance],
        "spread": "10% and 90% quantiles over samples",
        "sets": f"the {top} keys of most mass, mean over heads and queries",
    }
    return result


# --- effect ---


def _values(
    run: xr.DataTree, distance: str, metrics: Sequence[str] | None, scores: xr.Dataset | None
) -> dict[str, xr.DataArray]:
    """What arms are compared by, (arm, sample) each: the distance first, then what lies in the run, then what is given.

    `attrs["kind"]` is "to clean" where a value is one to the clean arm.
    """
    values = {distance: removal.shifts(run, distance).assign_attrs(kind="to clean")}
    values |= removal.scores(run, metrics)
    if scores is not None and "score" in scores and "metric" in scores.dims:
        scores = scores["score"].reset_coords(drop=True).dropna("metric", how="all").to_dataset("metric")
    for name, score in {} if scores is None else scores.data_vars.items():
        if set(score.dims) != {"arm", "sample"}:
            raise runs.RunError(f"score {name!r} has dimensions {score.dims}: (arm, sample) is needed")
        values[str(name)] = score
    return values


def _dose(
    run: xr.DataTree, gone: xr.Dataset, values: dict[str, xr.DataArray], confidence: float, seed: int
) -> list[xr.Dataset]:
    """The excess of sink arms over the line of their random arms, by every distance; nothing where there is no line."""
    lines = dose.of_lines(runs.arms(run))
    if not lines or not gone["removed_mass_of"].notnull().any():
        return []
    distances = {name: value for name, value in values.items() if value.attrs.get("kind") == "to clean"}
    found = [
        dose.excess(gone["removed_mass_of"], value, lines, confidence=confidence, seed=seed)
        for value in distances.values()
    ]
    own = {"arm": gone["removal"].values}
    mean = [value.sel(own).mean("sample", skipna=True).rename(arm="removal") for value in distances.values()]
    dim = xr.Variable("dosable", list(distances))
    line = xr.concat(found, dim=dim)
    line["distance"] = xr.concat(mean, dim=dim, coords="minimal", compat="override")
    return [line.rename({name: f"dose_{name}" for name in line.data_vars})]


# --- presentation ---


@sinks.presents("table")
def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per measure: descriptions of every arm (mean over steps and layers), then the effect of every pair."""
    rows, most = [], dataset.attrs["top"]
    for arm in dataset["arm"].values if "top_mass" in dataset else []:
        at = dataset.sel(arm=arm).mean([dim for dim in ("step", "layer") if dim in dataset.dims], skipna=False)
        values = {f"mass of the top {count}": _cells(at["top_mass"].sel(top=count)) for count in (1, most)}
        values["Gini over tokens"] = _cells(at["gini"])
        values[f"overlap of the top {most} with the clean arm"] = _cells(at["clean_overlap"])
        values[f"overlap of the top {most} between samples"] = {"mean": float(at["sample_overlap"])}
        values[f"overlap of the top {most} between consecutive steps"] = {"mean": _consecutive(dataset.sel(arm=arm))}
        values["token 0 is the top key"] = {"mean": float(at["first_token"])}
        values["step of the largest concentration (share of the run)"] = {"mean": float(at["peak"])}
        for kind in present(dataset) if "sink_kind" in dataset else []:
            values[f"top key is {kind}"] = {"mean": float(at["sink_kind"].sel(kind=kind))}
            values[f"mass on {kind}"] = _cells(at["kind_mass"].sel(kind=kind))
        rows += [{"arm": str(arm), "measure": name, **cells} for name, cells in values.items()]
    for arm in dataset["removal"].values if "removal" in dataset.dims else []:
        rows += [{"arm": str(arm), "measure": name, "mean": value} for name, value in _gone(dataset, arm).items()]
    for quantity in dataset["measure"].values if "difference" in dataset else []:
        for pair in dataset["pair"].values:
            at = dataset.sel(measure=quantity, pair=pair)
            for role in ("sink", "random"):
                rows.append(
                    {
                        "arm": str(at[f"{role}_arm"].values),
                        "measure": f"{quantity} shift",
                        "mean": float(at["shift"].sel(role=role).mean(skipna=True)),
                    }
                )
            extra = {"d_z": float(at["effect_size"]), "p (Holm)": float(at["p_holm"])}
            rows.append({"arm": str(pair), "measure": f"{quantity} difference", **_cells(at["difference"]), **extra})
            rows.append({"arm": str(pair), "measure": f"{quantity} ratio", **_cells(at["ratio"])})
    for quantity in dataset["dosable"].values if "dose_excess" in dataset else []:
        for arm in dataset["dosed"].values:
            at = dataset.sel(dosable=quantity, dosed=arm)
            cells = {
                "excess at equal mass": _cells(at["dose_excess"]),
                "exponent of the random arms' line": _cells(at["dose_slope"]),
                "factor between random arms and their line": {"mean": float(at["dose_misfit"])},
            }
            rows += [{"arm": str(arm), "measure": f"{quantity} {name}", **values} for name, values in cells.items()]
    return pd.DataFrame(rows, columns=["arm", "measure", "mean", "low", "high", "d_z", "p (Holm)"])


def _gone(dataset: xr.Dataset, arm: str) -> dict[str, float]:
    """What an arm removed, by the names of the table's lines."""
    at, named = dataset.sel(removal=arm), {}
    for kind in present(dataset):
        named[f"removed keys that are {kind}"] = at["removed_share"].sel(kind=kind)
        named[f"{kind} keys removed"] = at["removed_of_kind"].sel(kind=kind)
    named["keys removed per head"] = at["removed_number"]
    named["mass of the removed keys"] = at["removed_mass"]
    if at["removed_gap"].notnull():
        named["mass removed, gap to the sinks' (share of it)"] = at["removed_gap"]
        named["heads that got less than 90% of the sinks' mass"] = at["removed_short"]
    return {name: float(value) for name, value in named.items()}


def _cells(values: xr.DataArray) -> dict[str, float]:
    low, mean, high = (float(bound) for bound in runs.bounds(values))
    return {"low": low, "mean": mean, "high": high}


def _consecutive(arm: xr.Dataset) -> float:
    overlap = arm["step_overlap"].mean("layer", skipna=False).values
    return float(np.diagonal(overlap, 1).mean()) if len(overlap) > 1 else float("nan")


@sinks.presents("sentence")
def sentence(dataset: xr.Dataset) -> str:
    """What was seen, with intervals; where no difference shows, that this is no evidence of none."""
    parts = []
    if "top_mass" in dataset:
        parts.append(_where(dataset))
    if "difference" in dataset:
        parts += [_effect(dataset, str(measure)) for measure in dataset["measure"].values]
    if "dose_excess" in dataset:
        parts += [_excess(dataset, str(measure)) for measure in dataset["dosable"].values]
    if "difference" in dataset and "removed_share" in dataset:
        parts.append(_taken(dataset))
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples: " + " ".join(parts)


def _where(dataset: xr.Dataset) -> str:
    clean = dataset.sel(arm=runs.CLEAN)
    mean, most = clean.mean(("step", "layer"), skipna=False), dataset.attrs["top"]
    one, all_top = (float(mean["top_mass"].sel(top=count, bound="estimate")) for count in (1, most))
    text = (
        f"in the clean arm the top key receives {one:.1%} of a layer's attention and the top {most} {all_top:.1%} "
        f"(uniform: {float(dataset['uniform']):.2%} each)"
    )
    if "sink_kind" in dataset:
        text += f"; the top key is {_shares(mean['sink_kind'])} (of the tokens: {_shares(dataset['kind_count'])})"
    return text + (
        f"; token 0 is the top key in {float(clean['first_token']):.1%} of cases. The top {most} overlap (Jaccard) by "
        f"{_consecutive(clean):.2f} between consecutive steps and {float(mean['sample_overlap']):.2f} between samples "
        f"(random sets: {float(dataset['chance']):.3f})."
    )


def _effect(dataset: xr.Dataset, measure: str) -> str:
    texts = []
    for pair in dataset["pair"].values:
        at = dataset.sel(pair=pair, measure=measure)
        low, mean, high = (float(bound) for bound in runs.bounds(at["difference"]))
        sink, random = (float(at["shift"].sel(role=role).mean(skipna=True)) for role in ("sink", "random"))
        ends = "ends {:.3g} away, {} {:.3g}" if measure in dataset.attrs["distances"] else "scores {:.3g}, {} {:.3g}"
        text = (
            f"{at['sink_arm'].values} {ends.format(sink, at['random_arm'].values, random)}: difference "
            f"{mean:+.3g} [{low:.3g}, {high:.3g}], d_z {float(at['effect_size']):.2f}, Holm p {float(at['p_holm']):.2g}"
        )
        if not (low > 0 or high < 0):
            text += " (no difference shown, which is no evidence that there is none)"
        texts.append(text)
    what = dataset.attrs["distance"].split(",")[0] if measure in removal.DISTANCES else f"metric {measure}"
    number = int(dataset["compared"].sel(measure=measure))
    less = "" if number == dataset.attrs["samples"] else f", the {number} samples that have it"
    level = f"{dataset.attrs['confidence']:.0%} BCa intervals, paired by sample{less}; Holm over these pairs"
    known = "floor" in dataset and measure in removal.DISTANCES
    tail = f" Numerical floor: {float(dataset['floor']):.1g}." if known else ""
    return f"Sink against random removal, {what} ({level}): {'; '.join(texts)}.{tail}"


def _excess(dataset: xr.Dataset, measure: str) -> str:
    """At the same attention removed, how many times as far sinks move the result as random keys."""
    texts = []
    for arm in dataset["dosed"].values:
        at = dataset.sel(dosed=arm, dosable=measure)
        low, mean, high = (float(bound) for bound in runs.bounds(at["dose_excess"]))
        inside, misfit = float(at["dose_inside"]), float(at["dose_misfit"])
        if not np.isfinite(mean):
            texts.append(f"{arm}: not read, its mass lies beyond the random arms' in most samples")
            continue
        text = f"{arm} {mean:.3g} times as far [{low:.3g}, {high:.3g}]"
        notes = [f"in the {inside:.0%} of samples whose mass lies within the random arms'"] if inside < 1 else []
        if np.isfinite(misfit):
            notes.append(f"random arms lie a factor {misfit:.3g} from their line")
            if low < misfit and high > 1 / misfit:
                notes.append("which the excess does not clearly exceed")
        texts.append(text + (f" ({', '.join(notes)})" if notes else ""))
    return f"At the same attention removed, by the line of the random arms, {measure}: {'; '.join(texts)}."


def _taken(dataset: xr.Dataset) -> str:
    """What the compared arms removed: a control is matched kind by kind as far as there are other keys of the kind."""
    texts = []
    for arm in dict.fromkeys(str(arm) for role in ("sink_arm", "random_arm") for arm in dataset[role].values):
        at = dataset.sel(removal=arm)
        mass, short = float(at["removed_mass"]), float(at["removed_short"])
        texts.append(
            f"{arm} {_shares(at['removed_share'])}"
            + (f" ({float(at['removed_number']):.3g} keys a head, {mass:.1%} of attention)" if mass > 0 else "")
            + (f", less than {taken.SHORT:.0%} of the sinks' in {short:.1%} of heads" if short > 0 else "")
        )
    return f"Removed keys: {'; '.join(texts)}."


def _shares(values: xr.DataArray) -> str:
    shown = [(str(kind), float(values.sel(kind=kind))) for kind in values["kind"].values]
    return ", ".join(f"{share:.0%} {kind}" for kind, share in shown if share > 0)


sinks.presents("figure")(sinks_figure.figure)
