"""Runs in which samples diverged, made of runs in memory: as the store has them now, and as older stores have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr


def blown_up(
    run: xr.DataTree, where: Mapping[str, Sequence[int]], step: int, *, value: float = np.nan, flagged: bool = True
) -> xr.DataTree:
    """The run with these samples diverged under these arms from `step` on.

    flagged: as the loop flags them today, all values masked; else as older runs have them, complete and `value`.
    """
    arms = run["metrics"]["arm"].values.tolist()
    lost = np.zeros((len(arms), run["metrics"].sizes["sample"]), bool)
    for arm, samples in where.items():
        lost[arms.index(arm), list(samples)] = True
    bad = xr.DataArray(lost, dims=("arm", "sample"))

    def spoil(data: xr.Dataset) -> xr.Dataset:
        spoiled = {}
        for name, array in data.data_vars.items():
            if not {"arm", "sample"} <= set(array.dims) or array.dtype.kind != "f":
                continue
            late = bad
            if not flagged and "step" in array.dims:
                late = bad & xr.DataArray(np.arange(array.sizes["step"]) >= step, dims="step")
            spoiled[name] = array.where(~late, np.nan if flagged else value).transpose(*array.dims)
        return data.assign(spoiled)

    tree = run.map_over_datasets(spoil)
    if flagged:
        tree = with_status(tree, np.where(lost, 2, 1))
        steps = np.where(lost, step, -1).astype(np.int32)
        metrics = tree["metrics"].to_dataset(inherit=False)
        tree["metrics"].dataset = metrics.assign(failed_step=(("arm", "sample"), steps))
    return tree


def with_status(run: xr.DataTree, status: np.ndarray) -> xr.DataTree:
    """The run with these flags [arm, sample]."""
    tree = run.copy()
    tree.dataset = tree.to_dataset(inherit=False).assign(status=(("arm", "sample"), status.astype(np.int8)))
    return tree
