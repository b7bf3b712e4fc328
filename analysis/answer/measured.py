"""From runs to one row per arm, number of steps and sample: everything that the rule and its neighbours read.

Norms, ratios and Gram sums of what the tracer recorded; what was not recorded is NaN. No inference is made here.
Source: docs/science.md, "Feedback: the replay" and "Propagation: the own-path sum".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from analysis.answer import amplification as amp
from analysis.common import divergence, floor, pairing, runs, spectrum
from analysis.common.runs import FLOOR_FACTOR

ROWS = ("arm", "steps", "pair")
VALUES = {
    "error": "norm of the final error |y - x|",
    "error_spreads": "the same in spreads of the clean final states",
    "log_feedback": "log S, S = |y - x| / |w - x| at the end",
    "log_systematic": "log(|N*| / |N|), for ODE samplers log(|y - x| / |tau|)",
    "log_replay_null": "log R, R = |w - x| / |N|, for ODE samplers log(|w - x| / |tau|)",
    "error_energy": "|y - x|^2, where the own-path sum was recorded",
    "scatter_energy": "|y - x - N*|^2",
    "systematic_energy": "|N*|^2",
    "replay_energy": "|w - x|^2, where the replay's own-path sum was recorded",
    "replay_scatter_energy": "|w - x - N*_w|^2",
    "gram_top": "<delta_i, sum of N*_j> over the other paths of the start",
    "gram_bottom": "<N*_i, sum of N*_j> over the other paths of the start",
    "log_amplification": "log A of the additive null, a description",
    "coherence": "coherence of the additive null, a description",
    "stretch": "|tau| over the Gaussian transport of the same injections, a description; ODE samplers",
}
"""Column -> what it holds, per arm, number of steps and sample; NaN where it was not recorded."""


def measured(several: Iterable[xr.DataTree], kind: str | None = None) -> pd.DataFrame:
    """One row per (arm, steps, pair) of all whole arms of these runs, with the columns of `VALUES`, `start` and `path`.

    Samples that diverged under an arm are rows of NaN there, with `kept` false and `diverged` true.
    A sample that several runs hold at the same number of steps is taken once, each value from the run that recorded
    most. Samples whose final error is below 100 x the numerical floor, or 0, are rows of NaN with `kept` false.
    `kind` chooses the null of `log_amplification`.
    """
    tables = [of_run(run, kind) for run in several]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise runs.RunError("no arm acts over the whole run: add one with `trace run ... --mask R4S32`")
    order = pd.concat([table[[]] for table in tables])
    ranks = {name: {key: rank for rank, key in enumerate(order.index.unique(name))} for name in ("arm", "pair")}
    best, *rest = sorted(tables, key=lambda table: -int(table[list(VALUES)].notna().any().sum()))
    for other in rest:
        best = best.combine_first(other)

    def by_appearance(keys: pd.Index) -> pd.Index:
        return keys.map(ranks[str(keys.name)].get) if keys.name in ranks else keys

    best = best.sort_index(key=by_appearance)
    return best.assign(**{name: best[name].astype(bool) for name in ("kept", "diverged")})


def of_run(run: xr.DataTree, kind: str | None = None) -> pd.DataFrame:
    """The rows of one run; arguments as in `measured`. Empty for a run without a whole arm."""
    lost, run = _diverged(run), runs.complete(run)
    names = [arm.name for arm in runs.arms(run) if arm.whole]
    if not names:
        return lost.set_index(list(ROWS)) if len(lost) else pd.DataFrame()
    samples = _identified(run)
    described = _described(run, names, kind)
    spread = final_spread(run)
    rounding = floor.of_samples(run, run["metrics"]["delta_l2"].isel(step=-1).astype(np.float64))
    least = np.broadcast_to(FLOOR_FACTOR * np.asarray(rounding), len(samples))
    tables = []
    for name in names:
        table = samples.assign(**_of_arm(run, name, samples["start"].to_numpy(), least, spread))
        table = table.assign(**{key: values.sel(arm=name).values for key, values in described.items()})
        table.loc[~table["kept"], [key for key in VALUES if key in table]] = np.nan
        tables.append(table.assign(arm=name, steps=run["metrics"].sizes["step"]))
    whole = pd.concat(tables, ignore_index=True).assign(diverged=False)
    whole = whole.reindex(columns=[*ROWS, "start", "path", "kept", "diverged", *VALUES])
    return (pd.concat([whole, lost], ignore_index=True) if len(lost) else whole).set_index(list(ROWS))


def _identified(run: xr.DataTree) -> pd.DataFrame:
    """What pairs every sample of a run with itself elsewhere: `pair`, `start` and `path`."""
    named = {"pair": pairing.identities(run), "start": pairing.identities(run, paths=False), "path": paths(run)}
    return pd.DataFrame(named, index=range(run["metrics"].sizes["sample"]))


def _diverged(run: xr.DataTree) -> pd.DataFrame:
    """A row of NaN for every sample that diverged under a whole arm, with the columns of the whole table."""
    lost, samples = divergence.outcome(run).diverged, _identified(run)
    place = {arm.name: m for m, arm in enumerate(runs.every_arm(run))}
    rows = [
        samples[lost[place[arm.name]]].assign(arm=arm.name, steps=run["metrics"].sizes["step"])
        for arm in runs.arms(run)
        if arm.whole
    ]
    if not any(map(len, rows)):
        return pd.DataFrame()
    unknown = dict.fromkeys(VALUES, np.nan)
    return pd.concat(rows, ignore_index=True).assign(kept=False, diverged=True, **unknown)


def paths(run: xr.DataTree) -> np.ndarray:
    """The number of each sample's noise path; 0 for all where the run has one path a start."""
    coords = run["metrics"].ds.coords
    size = run["metrics"].sizes["sample"]
    return np.asarray(coords["path"].values) if "path" in coords else np.zeros(size, int)


def final_spread(run: xr.DataTree) -> float:
    """Norm that the clean final states scatter by about their mean over samples; sqrt(2) of it lies between two.

    Where no clean final state was recorded it is their root mean square about 0, which is not smaller.
    """
    try:
        final = runs.clean_final(run).astype(np.float64).compute()
        if final.sizes["sample"] > 1:
            return float(np.sqrt(final.var("sample", ddof=1, skipna=False).sum(spectrum.STATE, skipna=False)))
    except runs.RunError:
        pass
    last = run["metrics"].to_dataset()[["delta_l2", "delta_rel"]].isel(step=-1).sel(arm=runs.names(run)).compute()
    sizes = last["delta_l2"] / last["delta_rel"].where(last["delta_rel"] > 0)  # an arm without error says nothing
    size = sizes.mean("arm", skipna=True).values.astype(np.float64)
    known = size[np.isfinite(size)]
    return float(np.sqrt((known**2).mean())) if known.size else float("nan")


def _of_arm(run: xr.DataTree, arm: str, start: np.ndarray, least: np.ndarray, spread: float) -> dict[str, np.ndarray]:
    """The columns of one arm, each [sample], those that were recorded; errors below `least` are not kept."""
    error = _final(run, "delta_l2", arm)
    kept = (error >= least) & (error > 0)
    columns = {"error": error, "error_spreads": error / spread, "kept": kept}
    replay = _final(run, "replay_l2", arm) if runs.has(run, "metrics/replay_l2") else np.full_like(error, np.nan)
    columns["log_feedback"] = _log_ratio(error, replay)
    if runs.has(run, "decomposition/transport_final"):
        tau = _norm(_field(run, "decomposition/transport_final", arm))
        columns |= {"log_systematic": _log_ratio(error, tau), "log_replay_null": _log_ratio(replay, tau)}
    if runs.has(run, "decomposition/null_sum"):
        null = _norm(_field(run, "decomposition/null_sum", arm))
        columns["log_replay_null"] = _log_ratio(replay, null)
        if runs.has(run, "decomposition/own_sum"):
            columns |= _own(run, arm, null, np.where(kept, start, ""))
    return columns


def _own(run: xr.DataTree, arm: str, null: np.ndarray, start: np.ndarray) -> dict[str, np.ndarray]:
    """What the own-path sums say; samples of start "" are left out of the Gram sums."""
    delta, own = runs.final_delta(run), _field(run, "decomposition/own_sum", arm)
    error = np.asarray(delta.sel(arm=arm).values, np.float64).reshape(len(own), -1)
    size = _norm(own)
    columns = {
        "log_systematic": _log_ratio(size, null), "error_energy": (error**2).sum(1),
        "scatter_energy": ((error - own) ** 2).sum(1), "systematic_energy": size**2,
    }  # fmt: skip
    columns["gram_top"], columns["gram_bottom"] = gram(error, own, start)
    if runs.has(run, "decomposition/replay_own_sum") and runs.has(run, "trajectory/final_replay"):
        replay = _field(run, "trajectory/final_replay", arm)
        about = replay - _field(run, "decomposition/replay_own_sum", arm)
        columns |= {"replay_energy": (replay**2).sum(1), "replay_scatter_energy": (about**2).sum(1)}
    return columns


def gram(error: np.ndarray, own: np.ndarray, start: np.ndarray) -> np.ndarray:
    """<delta_i, sum of N*_j> and <N*_i, sum of N*_j> over the other paths j of the same start: [2, sample].

    error, own: delta and N* as [sample, element]. NaN for a sample that is its start's only one, or whose start is "".
    """
    sums = np.full((2, len(own)), np.nan)
    for name in np.unique(start[start != ""]):
        rows = np.flatnonzero(start == name)
        if rows.size > 1:
            others = own[rows].sum(0) - own[rows]
            sums[:, rows] = (error[rows] * others).sum(1), (own[rows] * others).sum(1)
    return sums


def off_diagonal(one: np.ndarray, other: np.ndarray) -> float:
    """Mean of <one_i, other_j> over i != j, both [path, element]: the product of their means, without bias."""
    count = len(one)
    return float((one.sum(0) @ other.sum(0) - (one * other).sum()) / (count * (count - 1)))


def _described(run: xr.DataTree, names: list[str], kind: str | None) -> dict[str, xr.DataArray]:
    """The old measures, where their null was recorded: they describe and judge nothing."""
    try:
        old = amp.amplification(run, kind)
    except runs.RunError:
        return {}
    columns = {name: old[name].sel(arm=names) for name in ("log_amplification", "coherence")}
    if runs.has(run, "decomposition/transport_final") and kind in (None, "gaussian"):
        tau = spectrum.norm(runs.get(run, "decomposition/transport_final").sel(arm=names)).compute()
        columns["stretch"] = tau / old["null_sum"].sel(arm=names).where(old["null_sum"].sel(arm=names) > 0)
    return columns


def _final(run: xr.DataTree, name: str, arm: str) -> np.ndarray:
    """A norm after the last step, [sample], float64."""
    return np.asarray(run["metrics"][name].sel(arm=arm).isel(step=-1).values, np.float64)


def _field(run: xr.DataTree, path: str, arm: str) -> np.ndarray:
    """A final state per sample, [sample, element], float64."""
    values = runs.get(run, path).sel(arm=arm).transpose("sample", *spectrum.STATE).values
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _norm(field: np.ndarray) -> np.ndarray:
    return np.sqrt((field**2).sum(1))


def _log_ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """log(top / bottom) [sample], NaN where either is 0 or unknown."""
    positive = (top > 0) & (bottom > 0)
    return np.where(positive, np.log(np.where(positive, top, 1) / np.where(positive, bottom, 1)), np.nan)
