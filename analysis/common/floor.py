"""The numerical floor: the error of the arm `full`, an all-true mask through the masked kernel, which is rounding.

By default it is run on the first few samples only, since it is alike in all of them; `status` says on which.
"""

from __future__ import annotations

import xarray as xr

from analysis.common import divergence, runs


def measured(run: xr.DataTree, errors: xr.DataArray) -> xr.DataArray | None:
    """The floor's own of errors (arm, sample, ...) of all arms: (sample, ...), NaN for samples it was not run on.

    None where it was run on none.
    """
    if not any(arm.is_floor for arm in runs.every_arm(run)):
        return None
    asked = divergence.asked(run).sel(arm=runs.FULL, drop=True)
    return errors.sel(arm=runs.FULL, drop=True).where(asked) if asked.any() else None


def of_samples(run: xr.DataTree, errors: xr.DataArray) -> xr.DataArray | float:
    """The floor of every sample, of errors (arm, sample, ...): its own, or the largest of any where it has none.

    0 where the floor was run on no sample.
    """
    own = measured(run, errors)
    return 0.0 if own is None else own.fillna(own.max("sample", skipna=True))
