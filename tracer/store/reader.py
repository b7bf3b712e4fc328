"""Reading: open a run lazily with what is incomplete masked, or the complete cells of a sweep.

A store is plain Zarr v3 and opens with xarray too; what is added here is the mask by status, lazy arrays
(`tracer.store.lazy`), the scores beside a run, what runs of version 1 lack, and checks:
metadata, coordinates and masks are compared with their checksums on opening, shards with their sizes on opening, and
what is read of them with its checksums. What is not as it was written is masked or raises; it never reads as a value.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr

from tracer.store.find import locate, root_attributes
from tracer.store.lazy import Shards, lazy
from tracer.store.remote import zarr_store
from tracer.store.schema import FAILED_STEP, RUN, STATUS_COMPLETE, STATUS_MISSING, SWEEP, RunError, Schema
from tracer.store.scores import read_scores
from tracer.store.shards import (
    check_size,
    damaged_shards,
    data_folder,
    open_store,
    read_flags,
    read_status,
    refuse_links,
    status_array,
    unit_arrays,
    unit_parts,
)
from tracer.store.static import damaged_static
from tracer.store.upgrade import upgraded


def open_run(path: str | Path | None = None) -> xr.DataTree:
    """A run as a lazy DataTree with dask chunks equal to its shards.

    path: a run directory or its trace.zarr, here or at an address such as s3://bucket/run; None takes the newest under
    ./runs. Every sample that is not complete
    reads as the fill value (NaN for floats); `status` says which. Scores of its pictures are groups `/scores/<metric>`.
    A run of version 1 gets the coordinates of version 2 in memory. Raises RunError when there is no such run, and when
    its metadata, coordinates or masks are not what was written; reading a shard that is not what was committed raises
    it too.
    """
    run = locate(path)
    check_static(run)
    stored, groups = open_store(run.resolve(), "r"), {}
    status = checked_status(run, status_array(stored))
    refuse_links(run, stored)
    shards = Shards(run.resolve(), RUN, unit_arrays(stored, RUN), unit_parts(status_array(stored)))
    loaded: dict[Hashable, xr.Variable] = {}  # every group repeats its coordinates; each is read once
    try:
        read = xr.open_groups(zarr_store(data_folder(run)), engine="zarr", chunks=None, create_default_indexes=False)
        xr.DataTree.from_dict(read)  # what does not fit together is told here, before anything is read
    except (ValueError, TypeError, KeyError) as error:  # metadata that contradict each other
        raise shards.damaged(f"its metadata do not fit together ({error})") from error
    for group, data in read.items():
        for name, coordinate in data.coords.items():
            loaded[name] = loaded[name] if name in loaded else _loaded(coordinate.variable)
        shown: dict[Hashable, xr.Variable] = {}  # assigned at once, since each assignment merges all coordinates
        for name, array in data.data_vars.items():
            path = f"{group}/{name}".strip("/")
            if path == "status":
                shown[name] = array.variable.copy(data=status)
                continue
            held = cast(zarr.Array, stored[path])
            check_size(run, held)
            there = status != STATUS_MISSING if path == FAILED_STEP else status == STATUS_COMPLETE
            shown[name] = array.variable.copy(data=cast(Any, lazy(held, there, shards)))
        groups[group] = data.assign_coords({name: loaded[name] for name in data.coords}).assign(shown)
    groups = upgraded(groups)
    for metric, scores in read_scores(run).items():
        groups[f"/scores/{metric}"] = scores.assign_coords(_shared(groups["/"], scores))
    return xr.DataTree.from_dict(groups, name=run.name)


def open_sweep(path: str | Path | None = None) -> xr.Dataset:
    """The complete cells of a sweep, loaded.

    path: its directory; None takes the newest under ./runs. Raises RunError when there is no such sweep, and when
    something in it is not what was written.
    """
    sweep = locate(path, schema=SWEEP)
    check_static(sweep)
    stored = open_store(sweep, "r")
    status = checked_status(sweep, status_array(stored), SWEEP, contents=True)
    refuse_links(sweep, stored)
    for _, array in stored.arrays():
        check_size(sweep, array)
    data = xr.open_zarr(zarr_store(data_folder(sweep)), consolidated=True, chunks=None)
    return data.isel(cell=np.flatnonzero(status == STATUS_COMPLETE)).load()


def check_static(path: Path) -> None:
    """Raise RunError where metadata, coordinates or masks are not what was written when the store was made."""
    if faults := damaged_static(path):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RunError(
            f"{path} is damaged: {faults[0]}{more}; `trace verify {path}` lists everything, `trace repair {path}` puts "
            "right what can be"
        )


def checked_status(path: Path, array: zarr.Array, schema: Schema = RUN, *, contents: bool = False) -> np.ndarray:
    """The flags over the status dims; units that are not as they were committed count as missing, with a warning.

    array: holds the flags. contents: whether checksums of the shards are compared now, besides their sizes.
    """
    if root_attributes(path, schema)["schema_version"] < schema.writable_from:
        return read_status(path)  # its units were never listed
    status = np.full(array.shape, STATUS_MISSING, np.int8)
    for unit, part in enumerate(unit_parts(array)):
        status[..., part] = flags = read_flags(array, part)
        if flags.any() and (bad := damaged_shards(path, unit, flags, contents=contents)):
            status[..., part] = STATUS_MISSING
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            text = (
                f"unit {unit} of {path.name} ({schema.unit_dim}s {part.start}-{part.stop - 1}) is flagged complete and "
                f"damaged: {bad[0]}{more}; masked. `trace verify {path}` lists everything"
            )
            warnings.warn(text, stacklevel=3)
    return status


def _shared(root: xr.Dataset, scores: xr.Dataset) -> dict[str, xr.DataArray]:
    """The run's coordinates of arms and samples, which the scores do not repeat on the disk."""
    return {
        str(name): coordinate
        for name, coordinate in root.coords.items()
        if name not in scores.coords and set(coordinate.dims) <= set(scores.dims)
    }


def _loaded(coordinate: xr.Variable) -> xr.Variable:
    """A coordinate in memory, strings as Python objects, which every writer of tables and netCDF takes."""
    values = coordinate.load()
    return values.astype(object) if values.dtype.kind == "T" else values
