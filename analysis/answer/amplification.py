"""How much longer the final error is than its additive null: A, and the coherence of the null. A description.

From a run to numbers per arm and sample (docs/science.md, "The additive null"). A holds scatter as well as
amplification, so nothing is judged by it.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis.answer import null
from analysis.common import floor, runs, spectrum
from analysis.common.pairing import identities
from analysis.common.runs import FLOOR_FACTOR

RECORD = "decomposition,null"


def amplification(run: xr.DataTree, kind: str | None = None) -> xr.Dataset:
    """A and what it is made of, for every intervened arm and complete sample: dims (arm, sample).

    `actual` is |delta_final|, `null_sum` |sum of null contributions| in the units of the final state, and
    `log_amplification` the log of their ratio: natural log, NaN where the sample is left out. A sample is left out
    of an arm (`kept` false) when |delta| is below 100 x the numerical floor (|delta| of the arm `full`), or when
    either norm is 0. `null_path` and `injected_path` are sums over steps of |null| and |injected|; `coherence` is
    null_sum / null_path. `kind` of null: "model-free" (default of a stochastic sampler) or "gaussian" transport of the
    injections (default of the ODE samplers).
    Raises RunError where the decomposition was not recorded. Source: docs/science.md, "The additive null".
    """
    run = runs.complete(run)
    names = runs.names(run)
    if not names:
        raise runs.RunError("this run has no intervened arm: add one with `trace run ... --mask R4S32`")
    kind = kind or null.default_kind(run)
    sizes = xr.Dataset({
        "actual": spectrum.norm(runs.final_delta(run)),
        "null_sum": spectrum.norm(null.null_sum(run, kind)),
        "null_path": runs.plain(null.null_norms(run, kind).sum("step", skipna=False)),
    })  # fmt: skip
    if runs.has(run, "metrics/injected_l2"):
        sizes["injected_path"] = runs.plain(runs.get(run, "metrics/injected_l2").sum("step", skipna=False))
    else:
        sizes["injected_path"] = sizes["actual"] * np.nan
    sizes = sizes.compute()
    least = FLOOR_FACTOR * floor.of_samples(run, sizes["actual"])
    sizes = sizes.sel(arm=names)
    kept = (sizes["actual"] >= least) & (sizes["actual"] > 0) & (sizes["null_sum"] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = xr.DataArray(np.log(sizes["actual"] / sizes["null_sum"]))
        coherence = sizes["null_sum"] / sizes["null_path"]
    result = sizes.assign(kept=kept, log_amplification=ratio.where(kept), coherence=coherence.where(kept))
    result = runs.with_arms(result, run).assign_coords(pair=("sample", identities(run)))
    result.attrs = {"steps": run["metrics"].sizes["step"], "title": runs.title(run)}
    return result
