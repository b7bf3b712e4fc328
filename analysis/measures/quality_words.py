"""What `quality` found as a table and in words; it computes nothing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import xarray as xr

from analysis.common import runs
from analysis.common.nouns import wording

BOUNDS = ["low", "estimate", "high"]
TO_REFERENCE = {
    "to_reference": "to reference",
    "reference_change": "to reference, minus clean",
    "reference_relative": "to reference, minus clean, of clean",
}
"""What is said of a distance to a reference, and what the table calls it."""


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per metric and intervened arm: clean value, value, change from clean with limits, d_z, Holm's p.

    Rows more where there is a reference: the distance to it, of the clean arm too, and the change from clean.
    """
    rows = []
    for metric in dataset["metric"].values:
        at = dataset.sel(metric=metric)
        scored = str(at["kind"].values) == "score"
        for arm in dataset["arm"].values:
            if arm == runs.CLEAN:
                continue
            here = at.sel(arm=arm)
            shown = here["change"] if scored else here["value"]
            row: dict[str, str | float] = {"metric": str(metric), "arm": str(arm)}
            row["clean"] = float(at["value"].sel(arm=runs.CLEAN, bound="estimate"))
            row["value"] = float(here["value"].sel(bound="estimate"))
            row["compared"] = "minus clean" if scored else "to clean"
            row |= {name: float(shown.sel(bound=name)) for name in BOUNDS}
            row |= {"d_z": float(here["effect_size"]), "p (Holm)": float(here["p_holm"])}
            if "replayed" in dataset:
                row |= {
                    "replayed": float(here["replayed"].sel(bound="estimate")),
                    "p, replayed": float(here["p_replay"]),
                }
            rows.append(row | _unbiased(here, "unbiased"))
        rows += _reference_rows(at)
    unsaid = [] if dataset["unbiased"].notnull().any() else [f"unbiased {bound}" for bound in BOUNDS]
    return pd.DataFrame(rows).drop(columns=unsaid)


def _unbiased(here: xr.Dataset, name: str) -> dict[str, str | float]:
    return {f"unbiased {bound}": float(here[name].sel(bound=bound)) for bound in BOUNDS}


def _reference_rows(at: xr.Dataset) -> list[dict[str, str | float]]:
    """Of one metric: what `TO_REFERENCE` names, a row each."""
    if "to_reference" not in at or bool(at["to_reference"].isnull().all()):
        return []
    rows = []
    for arm in at["arm"].values:
        here = at.sel(arm=arm)
        for name, compared in TO_REFERENCE.items() if arm != runs.CLEAN else [*TO_REFERENCE.items()][:1]:
            row: dict[str, str | float] = {"metric": str(at["metric"].values), "arm": str(arm)}
            value = float(here["to_reference"].sel(bound="estimate"))
            row["clean"] = value - float(here["reference_change"].sel(bound="estimate"))  # of the arm's own samples
            row |= {"value": value, "compared": compared}
            row |= {bound: float(here[name].sel(bound=bound)) for bound in BOUNDS}
            rows.append(row | _unbiased(here, f"unbiased_{name}"))
    return rows


def sentence(dataset: xr.Dataset) -> str:
    """For every arm but the floor, what each metric says; no claim beyond the intervals."""
    texts = []
    for arm in (str(name) for name in dataset["arm"].values if name not in (runs.CLEAN, runs.FULL)):
        clauses = [
            _clause(dataset.sel(metric=metric, arm=arm), dataset.sel(metric=metric, arm=runs.CLEAN))
            for metric in dataset["metric"].values
        ]
        texts.append(f"{arm}: {'; '.join(clauses)}")
    left_out = "; ".join(f"{name} ({why})" for name, why in json.loads(dataset.attrs["skipped"]).items())
    ending = f" Left out: {left_out}." if left_out else ""
    shown = ". ".join(texts) if texts else "no arm but the clean one"
    return f"{dataset.attrs['title']}, {dataset.attrs['samples']} samples. {shown}.{_set_notes(dataset)}{ending}"


def _set_notes(dataset: xr.Dataset) -> str:
    """What must be known of the distances of sets, each once."""
    notes, samples = "", dataset.attrs["samples"]
    if bool(dataset["unbiased"].notnull().any()):
        notes += (
            " The first of two distances is the published V-statistic, above 0 also between two sets of one "
            f"distribution (here with {samples} samples each), the second the unbiased U-statistic."
        )
    for metric, about in json.loads(dataset.attrs["references"]).items():
        notes += (
            f" The reference of {metric} is {about['']} ({about['pictures']} pictures, digest {about['digest'][:12]}); "
            "intervals resample the samples of the run, not the reference."
        )
    return notes


def _clause(here: xr.Dataset, clean: xr.Dataset) -> str:
    low, point, high = (float(v) for v in here["value"].values)
    text = f"{here['title'].item()} {point:.3g}"
    if str(here["kind"].values) != "score":
        return (
            text + limits(low, high) + _also_unbiased(here, "unbiased") + _replayed(here) + _to_reference(here, clean)
        )
    low, change, high = (float(v) for v in here["change"].values)
    reference = float(clean["value"].sel(bound="estimate"))
    return f"{text} against {reference:.3g} clean ({change:+.3g} [{low:.3g}, {high:.3g}]){_replayed(here)}"


def limits(low: float, high: float, form: str = ".3g") -> str:
    """ " [low, high]", or nothing where there are no limits."""
    return f" [{low:{form}}, {high:{form}}]" if np.isfinite(low) else ""


def _also_unbiased(here: xr.Dataset, name: str) -> str:
    low, point, high = (float(v) for v in here[name].values)
    return f" (unbiased {point:.3g}{limits(low, high)})" if np.isfinite(point) else ""


def _to_reference(here: xr.Dataset, clean: xr.Dataset) -> str:
    """The distance to the reference beside that of the clean pictures; "" where there is no reference."""
    if "to_reference" not in here or not np.isfinite(here["to_reference"].sel(bound="estimate")):
        return ""
    low, point, high = (float(v) for v in here["to_reference"].values)
    was = float(clean["to_reference"].sel(bound="estimate"))
    least, change, most = (float(v) for v in here["reference_relative"].values)
    changed = f" ({change:+.0%}{limits(least, most, '+.0%')})" if np.isfinite(change) else ""
    unbiased = _also_unbiased(here, "unbiased_to_reference")
    return f", to the reference {point:.3g}{limits(low, high)}{unbiased} against {was:.3g} clean{changed}"


def _replayed(here: xr.Dataset) -> str:
    """The replay's value, and whether the arm's differs from it; "" where it was not scored."""
    if "replayed" not in here or not np.isfinite(here["replayed"].sel(bound="estimate")):
        return ""
    p = float(here["p_replay"])
    return f", replayed {float(here['replayed'].sel(bound='estimate')):.3g}" + (
        f" (p of no difference from {wording(here).acted} {p:.2g})" if np.isfinite(p) else ""
    )
