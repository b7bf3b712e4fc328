"""What `schedule` says: a table of proposals or of tested arms, and sentences with the commands to go on with."""

from __future__ import annotations

import shlex

import numpy as np
import pandas as pd
import xarray as xr

from analysis.answer.margins import MARGIN

HOW = ("chosen and predicted on the same samples, so too low", "chosen on half of the samples, predicted on the other")
FRESH = 32
"""Samples of the run that tests a schedule, at least."""
VALUED = ("--mask", "--arm", "--record", "--samples", "--seed", "--out")


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per proposal; with a measured run, one per arm of it."""
    return _measured_table(dataset) if dataset.attrs["measured_samples"] else _proposal_table(dataset)


def _proposal_table(dataset: xr.Dataset) -> pd.DataFrame:
    rows = []
    for name in dataset["proposal"].values:
        at = dataset.sel(proposal=name)
        low, middle, high = at["of_proposal"].values
        rows.append({
            "proposal": str(name), "saves": float(at["saved"]), "expected": middle, "low": low, "high": high,
            "in quadrature": float(at["in_quadrature"]), "sum of sizes": float(at["sum_of_sizes"]),
            "arm": str(at["spec"].values),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _measured_table(dataset: xr.Dataset) -> pd.DataFrame:
    rows = []
    for place in range(dataset.sizes["tested"]):
        at = dataset.isel(tested=place)
        low, ratio, high = at["ratio"].values
        rows.append({
            "kind": str(at["kind"].values), "saves": float(at["tested_saving"]), "predicted": float(at["predicted"][1]),
            "measured": float(at["measured"][1]), "measured low": float(at["measured"][0]),
            "measured high": float(at["measured"][2]), "ratio": ratio, "ratio low": low, "ratio high": high,
            "prediction": str(at["answer"].values), "arm": str(at["tested"].values),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values(["saves", "kind"], kind="stable", ignore_index=True)


def records(dataset: xr.Dataset) -> pd.DataFrame:
    """The curve, a row per saving; with a measured run its arms, as the table."""
    if dataset.attrs["measured_samples"]:
        return _measured_table(dataset)
    found = {"saving": dataset["saving"].values, "expected": dataset["expected"].values[:, 1]}
    found |= {"low": dataset["expected"].values[:, 0], "high": dataset["expected"].values[:, 2]}
    found |= {"on the same samples": dataset["same"].values}
    return pd.DataFrame(
        found | {str(rule): dataset["of_rule"].sel(rule=rule).values[:, 1] for rule in dataset["rule"].values}
    )


def sentence(dataset: xr.Dataset) -> str:
    """What is proposed and expected, whether predictions held, what beat what, and how to go on."""
    if dataset.attrs["measured_samples"]:
        return " ".join([_of_measured(dataset), held(dataset, ("tested arm", "tested arms")), *_won(dataset)])
    return " ".join(
        [_proposed(dataset), held(dataset, ("wider arm of this run", "wider arms of this run"))]
    ) + _commands(dataset)


def _proposed(dataset: xr.Dataset) -> str:
    attrs, at = dataset.attrs, dataset.isel(plan=dataset.attrs["plan"])
    texts = [
        f"{attrs['title']}, {attrs['samples']} samples, {attrs['cells']} cells of {attrs['head']}. At a saving of "
        f"{float(at['saving']):.0%} of the block evaluations ({attrs['asked']}) the schedule is expected to end "
        f"{_interval(at['expected'].values)} away from clean (root mean square, in standard deviations of clean "
        f"results, if errors only add; {HOW[attrs['held_out']]})."
    ]
    rules = {str(name): dataset["of_proposal"].sel(proposal=name).values for name in dataset["proposal"].values[1:]}
    specs = dict(zip(dataset["proposal"].values.tolist(), dataset["spec"].values.tolist(), strict=True))
    texts += [f"It is {name} itself." for name in rules if specs[name] == specs["schedule"]]
    over = dataset["beside_rule"]
    known = [
        f"{name} {_interval(values)} (the schedule over it {_interval(over.sel(proposal=name).values)})"
        for name, values in rules.items()
        if np.isfinite(values[1])
    ]
    unknown = [name for name, values in rules.items() if not np.isfinite(values[1])]
    if known:
        texts.append(f"At the same saving: {', '.join(known)}.")
    if unknown:
        texts.append(
            f"Not predicted: {', '.join(unknown)}, made of rows longer than the {attrs['longest']} steps measured."
        )
    return " ".join(texts)


def _of_measured(dataset: xr.Dataset) -> str:
    attrs = dataset.attrs
    of, new = attrs["measured_samples"], attrs["of_fresh"]
    held_out = (
        f"{of} fresh samples" if new == of else f"{of} samples, {of - new} of them those of the study: not held out"
    )
    return f"{attrs['title']}, {held_out}; predicted from {attrs['samples']}."


def held(dataset: xr.Dataset, what: tuple[str, str]) -> str:
    """Of how many arms the prediction held, and by how much it failed where it did."""
    answers = dataset["answer"].values
    if not len(answers):
        return "No wider arm was run, so nothing shows yet whether errors add."
    known = np.isfinite(dataset["ratio"].values[:, 1])
    counts = {name: int((answers[known] == name).sum()) for name in ("held", "undecided", "failed")}
    texts = [
        f"Of {int(known.sum())} {what[int(known.sum() != 1)]} with a prediction {counts['held']} came out within a "
        f"factor of {MARGIN:g} of it, {counts['failed']} did not, {counts['undecided']} stay undecided"
    ]
    if known.any():
        middle = dataset["ratio"].values[known, 1]
        texts.append(f" (measured over predicted: {middle.min():.3g} to {middle.max():.3g})")
    texts.append(".")
    for place in np.flatnonzero(known & (answers == "failed")):
        at = dataset.isel(tested=place)
        wrong = "understated" if float(at["ratio"][1]) > 1 else "overstated"
        texts.append(
            f" The prediction failed for {at['kind'].values} at {float(at['tested_saving']):.0%}: measured over "
            f"predicted {_interval(at['ratio'].values)}, so errors do not add there and adding {wrong} them."
        )
    return "".join(texts)


def _won(dataset: xr.Dataset) -> list[str]:
    """Each schedule against each rule: better, worse, or not told apart."""
    texts = []
    for place in range(dataset.sizes["pair"]):
        at = dataset.isel(pair=place)
        low, _, high = at["rms_ratio"].values
        what = "is better than" if high < 1 else "is worse than" if low > 1 else "is not told apart from"
        texts.append(
            f"At {float(at['pair_saving']):.0%} saved the schedule {what} {at['beside'].values}: it leaves "
            f"{_interval(at['rms_ratio'].values)} of its root mean square error, "
            f"{_interval(at['typical_ratio'].values)} in a typical sample (geometric mean)."
        )
    return texts or ["No rule of equal cost was run beside a schedule, so nothing is said of which is better."]


def _commands(dataset: xr.Dataset) -> str:
    """The run that tests the proposals on fresh samples."""
    attrs = dataset.attrs
    words = _without(shlex.split(attrs["command"])) if "(" not in attrs["command"] else []
    words = words or ["trace", "run"]
    for spec in filter(None, [*dataset["spec"].values, attrs["fewer"]]):
        words += ["--arm", str(spec)]
    words += ["--seed", str(attrs["first_seed"]), "--samples", str(max(FRESH, attrs["samples"])), "--record", "finals"]
    run = shlex.join([*words, "--out", "runs/schedule-test"])
    return f"\n\nThe test on fresh samples:\n{run}\ntrace analyze schedule RUN --measured runs/schedule-test"


def _without(words: list[str]) -> list[str]:
    """A command without its arms, records and samples."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in VALUED:
            skip = True
        elif word != "--no-floor":
            kept.append(word)
    return kept


def _interval(values: np.ndarray) -> str:
    low, middle, high = values
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"
