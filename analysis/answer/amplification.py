"""How much larger the final error is than addition alone would make it: A, its factors S and R, and the coherence.

From a run to numbers per arm and sample (SCIENCE section 4). It does no inference: `steps` follows A over the number
of steps and `verdict` judges it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from analysis.answer import null
from analysis.common import runs, spectrum
from analysis.measures import impulse

FLOOR_FACTOR = 100.0
RECORD = "decomposition,null"
NOTHING_SHARED = "these runs share no arm or no sample: give them the same --mask, --seed and --classes"


def amplification(run: xr.DataTree, kind: str | None = None) -> xr.Dataset:
    """A and what it is made of, for every intervened arm and complete sample: dims (arm, sample).

    `actual` is |delta_final|, `null_sum` |sum of null contributions| in the units of the final state, and
    `log_amplification` the log of their ratio: natural log, NaN where the sample is left out. A sample is left out
    of an arm (`kept` false) when |delta| is below 100 x the numerical floor (|delta| of the arm `full`), or when
    either norm is 0. `null_path` and `injected_path` are sums over steps of |null| and |injected|; `coherence` is
    null_sum / null_path. `kind` of null: "model-free" (default of a stochastic sampler) or "gaussian" transport of the
    injections (default of the ODE samplers).
    Raises runs.RunError where the decomposition was not recorded. Source: SCIENCE section 4.
    """
    run = runs.complete(run)
    shown = runs.arms(run)
    if not shown:
        raise runs.RunError("this run has no intervened arm: add one with `trace run ... --mask R4S32`")
    actual = _norm(final_delta(run))
    null_sum, null_path = _null(run, kind)
    found = xr.Dataset({"actual": actual, "null_sum": null_sum, "null_path": null_path}).reset_coords(drop=True)
    if runs.has(run, "metrics/injected_l2"):
        found["injected_path"] = _plain(runs.need(run, "metrics/injected_l2", RECORD).sum("step"))
    else:
        found["injected_path"] = found["actual"] * np.nan
    found = found.compute()
    floor = found["actual"].sel(arm=runs.FULL, drop=True) if runs.FULL in found["arm"] else 0.0
    found = found.sel(arm=shown)
    kept = (found["actual"] >= FLOOR_FACTOR * floor) & (found["actual"] > 0) & (found["null_sum"] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = xr.DataArray(np.log(found["actual"] / found["null_sum"]))
        coherence = found["null_sum"] / found["null_path"]
    found = found.assign(kept=kept, log_amplification=ratio.where(kept), coherence=coherence.where(kept))
    found.attrs = {"steps": run["metrics"].sizes["step"], "title": runs.title(run)}
    return found.assign_coords(pair=("sample", identities(run)))


def impulse_sums(run: xr.DataTree) -> dict[str, xr.DataArray]:
    """|sum of impulses| (sample) of every arm whose one-step (or short-window) impulses the run holds, by arm name.

    An arm counts when its windowed copies (`R4S32@steps=3:4`) cover every step of the run exactly once. Windows of
    more than one step leave the feedback inside a window in the sum. Source: SCIENCE section 4.
    """
    run = runs.complete(run)
    steps = run["metrics"].sizes["step"]
    sums = {}
    for arm, windows in impulse.window_sets(runs.arms(run), steps).items():
        if sorted(step for window in windows for step in window) == list(range(steps)):
            total = _norm(final_delta(run).sel(arm=list(windows.values())).sum("arm")).compute()
            sums[arm] = total.assign_coords(pair=("sample", identities(run)))
    return sums


def final_delta(run: xr.DataTree) -> xr.DataArray:
    """Masked minus clean state after the last step: (arm, sample, channel, y, x)."""
    if runs.has(run, "trajectory/final_delta"):
        return runs.need(run, "trajectory/final_delta", "finals")
    return runs.need(run, "trajectory/delta", f"norms,latents,{RECORD}").isel(step=-1, drop=True)


def clean_final(run: xr.DataTree) -> xr.DataArray:
    """The clean state after the last step: (sample, channel, y, x)."""
    if not runs.has(run, "trajectory/latent") and runs.stochastic(run) and runs.has(run, "trajectory/x0"):
        return runs.get(run, "trajectory/x0").isel(step=-1, drop=True)  # where the last DDPM step lands
    return runs.need(run, "trajectory/latent", "norms,latents").isel(step=-1, drop=True)


def identities(run: xr.DataTree) -> list[str]:
    """What pairs a sample with itself in another run: its seed and its class or prompt."""
    coords = run["metrics"].ds.coords if "seed" in run["metrics"].ds.coords else run.ds.coords
    names = [name for name in ("seed", "class_label", "prompt") if name in coords] or ["sample"]
    return [" ".join(str(value) for value in values) for values in zip(*(coords[n].values for n in names), strict=True)]


def shared(trees: list[xr.DataTree]) -> list[xr.DataTree]:
    """The runs restricted to the complete samples that all of them have, in the order of the first.

    What is estimated over samples (the images' spread, the spectrum of the Gaussian null) then comes from the same ones
    in every run. Raises runs.RunError if there are none.
    """
    whole = [runs.complete(run) for run in trees]
    names = [identities(run) for run in whole]
    common = [pair for pair in names[0] if all(pair in others for others in names[1:])]
    if not common:
        raise runs.RunError(NOTHING_SHARED)
    return [
        run if own == common else runs.only(run, np.array([own.index(pair) for pair in common]))
        for run, own in zip(whole, names, strict=True)
    ]


def same_experiment(several: Iterable[xr.DataTree], *, but: Iterable[str] = ("steps",)) -> None:
    """Raise runs.RunError, naming the setting, if runs differ in anything that a comparison must hold fixed."""
    fixed = [name for name in ("model", "checkpoint", "sampler", "guidance", "mask_seed", "dtype") if name not in but]
    first, *rest = [runs.configuration(run) for run in several]
    for other in rest:
        for name in fixed:
            if first.get(name) != other.get(name):
                raise runs.RunError(
                    f"these runs differ in {name} ({first.get(name)} and {other.get(name)}): compare runs that differ "
                    "in the number of steps only"
                )


def as_list(several: xr.DataTree | Iterable[xr.DataTree] | Mapping[object, xr.DataTree]) -> list[xr.DataTree]:
    """One run, a sequence or a mapping of runs, as a list."""
    if isinstance(several, xr.DataTree):
        return [several]
    found = list(several.values() if isinstance(several, Mapping) else several)
    if not found or not all(isinstance(run, xr.DataTree) for run in found):
        raise runs.RunError("give one run, or a list or dict of runs, as opened with `tracer.open_run(path)`")
    return found


def is_cell(arm: str) -> bool:
    """Whether an arm is a condition of its own: neither limited to some steps nor at a part of the dose."""
    return not {"steps", "pause"} & runs.split(arm)[1].keys() and dose(arm) == 1


def dose(arm: str) -> float:
    """The dose of an arm, 1 if its spec names none."""
    return float(runs.split(arm)[1].get("strength", 1))


def is_small_world(arm: str) -> bool:
    """Whether an arm is an unscoped small-world mask with both a ball and shortcuts."""
    return re.fullmatch(r"R[1-9]\d*S[1-9]\d*", arm) is not None


def _null(run: xr.DataTree, kind: str | None) -> tuple[xr.DataArray, xr.DataArray]:
    """|sum of nulls| and the sum of |null| over steps, (arm, sample)."""
    kind = kind or ("model-free" if runs.stochastic(run) else "gaussian")
    return _norm(null.null_sum(run, kind)), _plain(null.null_norms(run, kind).sum("step"))


def _norm(field: xr.DataArray) -> xr.DataArray:
    return _plain((field.astype(np.float64) ** 2).sum(spectrum.STATE, skipna=False) ** 0.5)


def _plain(values: xr.DataArray) -> xr.DataArray:
    return values.astype(np.float64).reset_coords(drop=True)
