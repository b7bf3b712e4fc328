"""The store of a sweep: one Zarr v3 directory, one cell (spec and mask seed) committed at a time.

A cell's arrays are written and synced before its status flag is set, so a crash loses at most the cell in work, and a
reader sees complete cells only. Opens with plain `xr.open_zarr`; what `open_sweep` adds is the mask by status.
"""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from interventions.errors import InputError
from tracer.store import config_hash
from tracer.store.durable import sync_filesystem
from tracer.store.provenance import provenance

SCHEMA, SCHEMA_VERSION = "denoise-trace-sweep", 1
STORE = "sweep.zarr"
STATUS = {"flag_values": [0, 1], "flag_meanings": "missing complete", "long_name": "state of the cell"}


class SweepError(InputError):
    """A store that cannot be made or continued; the message says what to type."""


def create(
    path: Path, coords: xr.Dataset, variables: Mapping[str, tuple[tuple[str, ...], str, dict]], config: dict
) -> None:
    """Make an empty sweep at `path`, whole or not at all.

    coords: a dataset of coordinates only, `cell` first among its dims. variables: name -> (dims, dtype, attributes);
    every one begins with `cell`. Raises SweepError when the path exists.
    """
    if path.exists():
        raise SweepError(f"{path} exists; continue it with --resume, or choose another --out")
    building = path.with_name(f"{path.name}.creating-{uuid.uuid4().hex}")
    attributes = {
        "Conventions": "CF-1.11",
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "config": json.dumps(config, sort_keys=True),
        "config_hash": config_hash(config),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "provenance": json.dumps(provenance()),
        "outcomes": sorted(variables),
    }
    try:
        building.mkdir(parents=True)
        store = building / STORE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # strings and consolidated metadata work but are not yet in Zarr's standard
            _texts(coords).assign_attrs(attributes).to_zarr(store, zarr_format=3, consolidated=False)
        root = zarr.open_group(store, mode="r+")
        sizes = dict(coords.sizes)
        for name, (dims, dtype, about) in {"status": (("cell",), "int8", STATUS), **variables}.items():
            shape = tuple(sizes[dim] for dim in dims)
            root.create_array(
                name,
                shape=shape,
                chunks=(1, *shape[1:]),
                dtype=dtype,
                fill_value=0 if name == "status" else _missing(dtype),
                compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()],
                chunk_key_encoding={"name": "default", "separator": "."},
                dimension_names=dims,
                attributes=about,
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(store)
        sync_filesystem(building)
        building.rename(path)
        sync_filesystem(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def check_resume(path: Path, config: dict) -> None:
    """Raise SweepError unless `path` is a sweep of the same configuration; the message names what differs."""
    if not (path / STORE / "zarr.json").is_file():
        raise SweepError(f"{path} is no sweep (it holds no {STORE}), so there is nothing to resume")
    before = json.loads(str(zarr.open_group(path / STORE, mode="r").attrs["config"]))
    changed = [key for key in {*before, *config} if before.get(key) != json.loads(json.dumps(config)).get(key)]
    if changed:
        told = "; ".join(f"{key}: {before.get(key)!r} there, {config.get(key)!r} asked" for key in sorted(changed))
        raise SweepError(f"{path} was made with another configuration ({told}); choose another --out")


def done(path: Path) -> np.ndarray:
    """Bool [cell]: which cells are complete."""
    return np.asarray(_array(zarr.open_group(path / STORE, mode="r"), "status")[:]) == 1


def write_cell(path: Path, index: int, values: Mapping[str, Any]) -> None:
    """Write one cell and flag it complete; every variable must be given. Raises SweepError if one is missing."""
    root = zarr.open_group(path / STORE, mode="r+")
    arrays = {name: _array(root, name) for name in cast(list[str], root.attrs["outcomes"])}
    lacking = sorted(set(arrays) - set(values))
    if lacking:
        raise SweepError(f"cell {index} lacks {', '.join(lacking)}")
    for name, array in arrays.items():
        array[index] = np.asarray(values[name], dtype=array.dtype)
    sync_filesystem(path)
    _array(root, "status")[index] = 1
    sync_filesystem(path)


def _array(root: zarr.Group, name: str) -> zarr.Array:
    return cast(zarr.Array, root[name])


def open_sweep(path: str | Path) -> xr.Dataset:
    """The complete cells of a sweep, loaded; `path` is its directory. Raises SweepError when there is none."""
    store = Path(path) / STORE
    if not (store / "zarr.json").is_file():
        raise SweepError(f"{path} is no sweep (it holds no {STORE}); make one with `trace sweep classify`")
    data = xr.open_zarr(store, consolidated=True, chunks=None)
    return data.isel(cell=np.flatnonzero(data["status"].values == 1)).load()


def _texts(coords: xr.Dataset) -> xr.Dataset:
    """Texts of any length, so that the longest name does not set the size of all."""
    return coords.assign_coords(
        {
            name: (value.dims, value.values.astype(object), value.attrs)
            for name, value in coords.coords.items()
            if value.dtype.kind == "U"
        }
    )


def _missing(dtype: str) -> float | int:
    return float("nan") if np.dtype(dtype).kind == "f" else -1
