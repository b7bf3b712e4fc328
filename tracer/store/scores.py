"""Scores of a run's pictures: one netCDF file a metric under `RUN/scores/`, written whole or not at all.

Networks that look at pictures compute them elsewhere; `open_run` hands them on as the groups `/scores/<metric>`. The
store itself is not touched: a run may be scored, and scored again, long after it was made.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr

from tracer.store.durable import opened_disk, sync_filesystem
from tracer.store.find import locate, root_attributes
from tracer.store.remote import local, readable
from tracer.store.schema import RunError
from tracer.store.shards import open_store

_FORMS = {"score": ("arm", "sample"), "features": ("arm", "sample", "feature")}
_FORMS |= {
    **{f"replay_{name}": dims for name, dims in _FORMS.items()},
    **{f"{name}_by_step": (*dims[:2], "frame_step", *dims[2:]) for name, dims in _FORMS.items()},
}


def write_scores(run_path: str | Path, name: str, dataset: xr.Dataset) -> Path:
    """Write the scores of one metric to `RUN/scores/<name>.nc`, over what is there, and return that file.

    dataset: `score` (arm, sample) for metrics of single pictures, or `features` (arm, sample, feature) for metrics of
    sets, with the coordinates arm (spec strings) and sample of the run; further variables are kept. Arms and samples of
    the run that it leaves out become NaN. attrs: texts, numbers, booleans; a mapping is kept as JSON. Raises RunError
    for arms or samples that the run does not have, and for another form.
    """
    run = local(locate(run_path))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RunError(f"scores {name!r}: a metric is named by letters, digits, '-', '_' and '.', for example clip-t")
    _check_form(name, dataset)
    own = _index(run)
    for dim, values in own.items():
        if foreign := [value for value in dataset[dim].values.tolist() if value not in values]:
            raise RunError(f"scores {name!r}: {run} has no {dim} {foreign[0]!r}; they are of another run")
        if len(set(dataset[dim].values.tolist())) < dataset.sizes[dim]:
            raise RunError(f"scores {name!r}: a {dim} is given twice")
    attributes = {"name": name, **dataset.attrs, "run_id": root_attributes(run)["run_id"]}
    whole = dataset.reset_coords(drop=True).reindex(own)
    whole.attrs = {key: _storable(value) for key, value in attributes.items() if value is not None}
    folder = run / "scores"
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.nc"
    partial = folder / f"{name}.nc.{uuid.uuid4().hex}.partial"
    try:
        with opened_disk(folder) as disk:
            whole.to_netcdf(partial, engine="scipy")
            sync_filesystem(disk)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def read_scores(run_path: str | Path) -> dict[str, xr.Dataset]:
    """The scores there are, lazily: metric -> dataset over all arms and samples of the run, with the metric's attrs.

    Raises RunError for a file that was scored on another run.
    """
    run = locate(run_path)
    files, scores = sorted((run / "scores").glob("*.nc")), {}
    if not files:
        return {}
    run_id, own = root_attributes(run)["run_id"], _index(run)
    for file in files:
        dataset = xr.open_dataset(readable(file), engine="scipy")
        dataset = dataset.assign_coords(arm=dataset["arm"].astype(object))
        same = all(dim in dataset.sizes and dataset[dim].values.tolist() == own[dim].tolist() for dim in own)
        if dataset.attrs.get("run_id") != run_id or not same:
            raise RunError(
                f"{file} holds scores of another run; delete it, and score this run with `trace score {run}`"
            )
        dataset.attrs = {key: bool(value) if _is_byte(value) else value for key, value in dataset.attrs.items()}
        scores[file.stem] = dataset
    return scores


def _index(run: Path) -> dict[str, np.ndarray]:
    """The run's own arms and samples."""
    arms = np.array(root_attributes(run)["arms"], object)
    sample = cast(zarr.Array, open_store(run, "r")["sample"])
    return {"arm": arms, "sample": np.asarray(sample[...])}


def _check_form(name: str, dataset: xr.Dataset) -> None:
    given = {variable: dataset[variable].dims for variable in _FORMS if variable in dataset}
    if not given or any(dims != _FORMS[variable] for variable, dims in given.items()):
        raise RunError(
            f"scores {name!r}: give score (arm, sample) or features (arm, sample, feature), not "
            f"{', '.join(f'{variable} {dataset[variable].dims}' for variable in dataset.data_vars) or 'nothing'}"
        )
    if lacking := [dim for dim in ("arm", "sample") if dim not in dataset.coords]:
        raise RunError(f"scores {name!r}: the coordinate {lacking[0]} is missing")


def _storable(value: Any) -> Any:
    """What netCDF 3 can hold of an attribute; it knows no bool, so that a byte stands for one."""
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return np.int8(value) if isinstance(value, bool | np.bool_) else value


def _is_byte(value: Any) -> bool:
    return getattr(value, "dtype", None) == np.int8
