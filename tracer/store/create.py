"""Creating a run or a sweep: an empty store with all its metadata and coordinates, there whole or not at all.

After this nothing changes the metadata; `tracer.store.writer` fills in the values, unit by unit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from tracer.store.arms import Coordinate, with_arm_coordinates
from tracer.store.cut import Cut, cut
from tracer.store.durable import opened_disk, sync_filesystem
from tracer.store.folders import TakenError
from tracer.store.places import occupied
from tracer.store.provenance import provenance
from tracer.store.remote import local
from tracer.store.schema import (
    RUN,
    STATUS_COMPLETE,
    STATUS_FAILED,
    STATUS_MISSING,
    STATUS_UNASKED,
    RunError,
    Schema,
    Variable,
)
from tracer.store.seals import canonical, write_static
from tracer.store.static import keep_copies

_KEYS: Any = {"name": "default", "separator": "."}
_WHOLE: Any = {"write_empty_chunks": True}  # a file for every chunk, so that a lost one is noticed
_PARTS = ("launches", "claims", "units")


def create(
    path: str | Path,
    variables: Sequence[Variable],
    sizes: Mapping[str, int],
    coords: Mapping[str, Coordinate],
    attrs: Mapping[str, Any],
    unit: int,
    static: Mapping[str, np.ndarray] | None = None,
    schema: Schema = RUN,
) -> None:
    """Make an empty run (or sweep) at `path`, whole or not at all.

    variables: from `records.variables`. coords: name -> (dims, values, attrs); "arm" ("spec" in a sweep) is required;
    in a run "sample", "step", "layer" and "head" count from 0 unless given, and the coordinates that say what an arm is
    are computed from the specs unless given. Each is repeated in every group that has its dims. attrs: root attributes;
    `config` (a mapping or its JSON) is required, hashed and kept as JSON; created_at, run_id and provenance are filled
    in when absent. unit: samples (cells) per commit unit. static: values of variables that no loop writes.
    Raises TakenError when the path exists, RunError when a coordinate has another length than its dim, coordinates of
    the arms are missing and cannot be computed, or a static value is missing.
    """
    path, static = local(path), dict(static or {})
    if occupied(path):
        raise _taken(path)
    if unit < 1:
        raise RunError(f"a unit of {unit} {schema.unit_dim}s; it must be at least 1")
    unit = min(unit, sizes[schema.unit_dim])
    coords = _coordinates(variables, sizes, coords, schema)
    if lacking := [v.path for v in variables if schema.unit_dim not in v.dims and v.path not in static]:
        raise RunError(f"static values are missing for {', '.join(lacking)}")
    building = path.with_name(f"{path.name}.creating-{uuid.uuid4().hex}")
    try:
        for part in _PARTS:
            (building / part).mkdir(parents=True)
        attributes = _attributes(attrs, coords, unit, schema)
        with opened_disk(path.parent) as disk:
            _write_store(building / schema.folder, schema, variables, sizes, coords, attributes, unit, static)
            data = building / schema.folder
            write_static(building, schema.folder, (str(f.relative_to(data)) for f in data.rglob("*") if f.is_file()))
            keep_copies(building)
            sync_filesystem(disk)
            try:
                building.rename(path)  # an empty directory is replaced, anything else refuses
            except OSError as error:
                raise (_taken(path) if occupied(path) else error) from None
            sync_filesystem(disk)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _taken(path: Path) -> TakenError:
    return TakenError(f"{path} exists; continue it with --resume, or choose another --out")


def _coordinates(
    variables: Sequence[Variable], sizes: Mapping[str, int], coords: Mapping[str, Coordinate], schema: Schema
) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]:
    """All coordinates as they are written: values as arrays, texts of any length, attributes filled in."""
    if schema.named_by not in coords:
        raise RunError(f"coords needs `{schema.named_by}`: the spec strings, clean first")
    if "arm" in schema.status_dims:
        coords = with_arm_coordinates(coords, sizes["step"])
    used = {dim for variable in variables for dim in variable.dims} | set(schema.status_dims)
    complete: dict[str, Any] = {
        dim: ((dim,), np.arange(sizes[dim]), {"long_name": text, "units": "1"})
        for dim, text in schema.counted.items()
        if dim in used
    }
    for name, (dims, values, attributes) in coords.items():
        values = np.asarray(values)
        values = values.astype(np.dtypes.StringDType()) if values.dtype.kind in "OU" else values
        expected = tuple(sizes[dim] for dim in dims)
        if values.shape != expected:
            raise RunError(f"coordinate {name} has shape {values.shape}, its dims {tuple(dims)} have {expected}")
        complete[name] = (tuple(dims), values, {"units": "1", "long_name": name.replace("_", " "), **attributes})
    return complete


def _attributes(attrs: Mapping[str, Any], coords: Mapping[str, Any], unit: int, schema: Schema) -> dict[str, Any]:
    config = attrs["config"]
    config = canonical(json.loads(config) if isinstance(config, str) else config)
    return {
        "Conventions": "CF-1.11",
        "schema": schema.name,
        "schema_version": schema.version,
        "run_id": uuid.uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        **({"arms": [str(arm) for arm in coords["arm"][1]]} if "arm" in coords else {}),
        "unit": unit,
        "checksums": "sha256",
        **{key: value for key, value in attrs.items() if key not in ("config", "provenance")},
        "config": config,
        "config_hash": hashlib.sha256(config.encode()).hexdigest(),
        "provenance": json.dumps({**provenance(), **attrs.get("provenance", {})}, sort_keys=True, default=str),
    }


def _write_store(
    path: Path,
    schema: Schema,
    variables: Sequence[Variable],
    sizes: Mapping[str, int],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
    unit: int,
    static: Mapping[str, np.ndarray],
) -> None:
    store = LocalStore(path)
    root = zarr.open_group(store, mode="w", zarr_format=3)
    root.attrs.put(dict(attrs))
    written: dict[str, Path] = {}
    groups: dict[str, list[Variable]] = {"": []}
    for variable in variables:
        groups.setdefault(variable.group, []).append(variable)
    for name, members in groups.items():
        group = root.create_group(name) if name else root
        dims = {dim for member in members for dim in member.dims}
        if not name:
            _write_status(root, schema, sizes, unit)
            dims |= set(schema.status_dims)
        if name == "attention":  # what sink_token and removed_token name must be readable where no mass is recorded
            dims.add("token")
        _write_coordinates(group, dims, coords, path / name, written)
        for variable in members:
            shape = cut(variable, members, sizes, unit, schema)
            _write_variable(group, variable, shape, static.get(variable.path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        for name in reversed(groups):  # the root last: it gathers what the groups say
            zarr.consolidate_metadata(store, path=name)


def _write_status(root: zarr.Group, schema: Schema, sizes: Mapping[str, int], unit: int) -> None:
    shape = tuple(sizes[dim] for dim in schema.status_dims)
    root.create_array(
        "status",
        shape=shape,
        chunks=(*shape[:-1], unit),
        dtype="int8",
        fill_value=STATUS_MISSING,
        compressors=[Crc32cCodec()],
        chunk_key_encoding=_KEYS,
        dimension_names=schema.status_dims,
        attributes={
            "long_name": f"whether the {schema.unit_dim} is on the disk",
            "units": "1",
            "flag_values": [STATUS_MISSING, STATUS_COMPLETE, STATUS_FAILED, STATUS_UNASKED],
            "flag_meanings": "missing complete failed unasked",
        },
    )


def _write_coordinates(
    group: zarr.Group, dims: set[str], coords: Mapping[str, Any], folder: Path, written: dict[str, Path]
) -> None:
    """The coordinates whose dims the group has, in its folder; what another group has `written` is copied from it."""
    inside = {name: value for name, value in coords.items() if set(value[0]) <= dims}
    for name, (own, values, attributes) in inside.items():
        if name in written:
            shutil.copytree(written[name], folder / name)
            continue
        written[name] = folder / name
        compressors = None if values.dtype.kind == "T" else [Crc32cCodec()]
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=values.dtype,
            compressors=compressors,
            chunk_key_encoding=_KEYS,
            config=_WHOLE,
            dimension_names=own,
            attributes=dict(attributes),
        )
        array[...] = values
    others = [name for name, (own, _, _) in inside.items() if own != (name,)]
    if others:
        group.attrs["coordinates"] = " ".join(others)


def _write_variable(group: zarr.Group, variable: Variable, shape: Cut, values: np.ndarray | None) -> None:
    """An empty array, or a filled one where static values are given."""
    attributes = {"long_name": variable.long_name, "units": variable.units, **(variable.attrs or {})}
    if variable.before is not None:
        attributes["before_onset"] = variable.before
    if variable.optional:
        attributes["optional"] = 1
    if variable.keep_bits:
        attributes["keep_bits"] = variable.keep_bits
    array = group.create_array(
        variable.name,
        shape=shape.shape,
        shards=shape.shards,
        chunks=shape.chunks,
        dtype=variable.dtype,
        fill_value=variable.fill_value,
        compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()],
        chunk_key_encoding=_KEYS,
        config=_WHOLE,
        dimension_names=variable.dims,
        attributes=attributes,
    )
    if values is not None:
        if values.shape != shape.shape:
            raise RunError(f"{variable.path} is {shape.shape}, the static values are {values.shape}")
        array[...] = values
