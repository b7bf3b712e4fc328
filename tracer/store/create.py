"""The trace store: one directory per run, written unit by unit so that a crash loses at most the unit in work.

The public face: `create` makes a run, `Writer` fills it, `open_run` reads it, `finalize` checks and tidies it. The
layout on disk and the order of writes are described in docs/schema.md. Local POSIX file systems only.
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

from tracer.store.durable import sync_filesystem
from tracer.store.find import locate, root_attributes
from tracer.store.provenance import provenance
from tracer.store.schema import (
    SCHEMA,
    SCHEMA_VERSION,
    STATUS_COMPLETE,
    STATUS_FAILED,
    STATUS_MISSING,
    Layout,
    RunError,
    Variable,
    layout,
)

Coordinate = tuple[Sequence[str], Any, Mapping[str, Any]]
_KEYS: Any = {"name": "default", "separator": "."}


def create(
    path: str | Path,
    variables: Sequence[Variable],
    sizes: Mapping[str, int],
    coords: Mapping[str, Coordinate],
    attrs: Mapping[str, Any],
    unit: int,
    static: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Make an empty run at `path`, whole or not at all.

    variables: from `schema.variables`. coords: name -> (dims, values, attrs); "arm" is required, "sample", "step",
    "layer" and "head" count from 0 unless given; each is repeated in every group that has its dims. attrs: root
    attributes; `config` (a mapping or its JSON) is required, hashed and kept as JSON; created_at, run_id and provenance
    are filled in when absent. unit: samples per commit unit. static: values of variables without a sample axis.
    Raises RunError when the path exists, a coordinate has another length than its dim, or a static value is missing.
    """
    path, static = Path(path), dict(static or {})
    if path.exists():
        raise RunError(f"{path} exists; continue it with --resume, or choose another --out")
    if unit < 1:
        raise RunError(f"a unit of {unit} samples; it must be at least 1")
    unit = min(unit, sizes["sample"])
    coords = _coordinates(variables, sizes, coords)
    if lacking := [v.path for v in variables if not v.per_sample and v.path not in static]:
        raise RunError(f"static values are missing for {', '.join(lacking)}")
    building = path.with_name(f"{path.name}.creating-{uuid.uuid4().hex}")
    try:
        for part in ("launches", "claims", "units"):
            (building / part).mkdir(parents=True)
        _write_store(building / "trace.zarr", variables, sizes, coords, _attributes(attrs, coords, unit), unit, static)
        sync_filesystem(building)
        if path.exists():  # rename would silently replace an empty directory
            raise RunError(f"{path} exists; continue it with --resume, or choose another --out")
        building.rename(path)
        sync_filesystem(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(_canonical(config).encode()).hexdigest()


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration a run was made with."""
    return json.loads(root_attributes(locate(path))["config"])


def check_resume(path: str | Path, config: Mapping[str, Any]) -> None:
    """Raise RunError naming every key in which `config` differs from the run's own (old -> new)."""
    run = locate(path)
    if config_hash(config) == root_attributes(run)["config_hash"]:
        return
    old, new = _flat(read_config(run)), _flat(json.loads(_canonical(config)))
    changes = [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]
    raise RunError(
        f"{run} was made with another configuration ({'; '.join(changes)}); "
        "resume it with the options it was made with, or choose another --out"
    )


def free_space(path: str | Path) -> int:
    """Bytes free for us on the disk that holds `path`, which need not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(path: str | Path, needed: int) -> None:
    """Raise RunError when the disk that holds `path` has no room for this many bytes."""
    free = free_space(path)
    if needed > free:
        raise RunError(
            f"the run needs about {needed / 1e9:.2f} GB and {path} has {free / 1e9:.2f} GB free; "
            "record less (--record norms), take fewer --samples, or choose another --out"
        )


def _coordinates(
    variables: Sequence[Variable], sizes: Mapping[str, int], coords: Mapping[str, Coordinate]
) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]:
    if "arm" not in coords:
        raise RunError("coords needs `arm`: the spec strings, clean first")
    used = {dim for variable in variables for dim in variable.dims} | {"arm", "sample"}
    counted = {"sample": "sample", "step": "step of sampling", "layer": "layer", "head": "attention head"}
    found: dict[str, Any] = {
        dim: ((dim,), np.arange(sizes[dim]), {"long_name": text, "units": "1"})
        for dim, text in counted.items()
        if dim in used
    }
    for name, (dims, values, attributes) in coords.items():
        values = np.asarray(values)
        values = values.astype(np.dtypes.StringDType()) if values.dtype.kind in "OU" else values
        expected = tuple(sizes[dim] for dim in dims)
        if values.shape != expected:
            raise RunError(f"coordinate {name} has shape {values.shape}, its dims {tuple(dims)} have {expected}")
        found[name] = (tuple(dims), values, {"units": "1", "long_name": name.replace("_", " "), **attributes})
    return found


def _attributes(attrs: Mapping[str, Any], coords: Mapping[str, Any], unit: int) -> dict[str, Any]:
    config = attrs["config"]
    config = _canonical(json.loads(config) if isinstance(config, str) else config)
    return {
        "Conventions": "CF-1.11",
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "run_id": uuid.uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "arms": [str(arm) for arm in coords["arm"][1]],
        "unit": unit,
        **{key: value for key, value in attrs.items() if key not in ("config", "provenance")},
        "config": config,
        "config_hash": hashlib.sha256(config.encode()).hexdigest(),
        "provenance": json.dumps({**provenance(), **attrs.get("provenance", {})}, sort_keys=True, default=str),
    }


def _write_store(
    path: Path,
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
    groups: dict[str, list[Variable]] = {}
    for variable in variables:
        groups.setdefault(variable.group, []).append(variable)
    _write_status(root, sizes, unit)
    _write_coordinates(root, {"arm", "sample"}, coords)
    for name, members in groups.items():
        group = root.create_group(name)
        dims = {dim for member in members for dim in member.dims}
        # what sink_token and removed_token name must be readable where no mass is recorded
        _write_coordinates(group, dims | {"token"} if name == "attention" else dims, coords)
        for variable in members:
            _write_variable(group, variable, layout(variable, members, sizes, unit), static.get(variable.path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        for name in (*groups, ""):  # the root last: it gathers what the groups say
            zarr.consolidate_metadata(store, path=name)


def _write_status(root: zarr.Group, sizes: Mapping[str, int], unit: int) -> None:
    root.create_array(
        "status",
        shape=(sizes["arm"], sizes["sample"]),
        chunks=(sizes["arm"], unit),
        dtype="int8",
        fill_value=STATUS_MISSING,
        compressors=[Crc32cCodec()],
        chunk_key_encoding=_KEYS,
        dimension_names=("arm", "sample"),
        attributes={
            "long_name": "whether the sample is on the disk",
            "units": "1",
            "flag_values": [STATUS_MISSING, STATUS_COMPLETE, STATUS_FAILED],
            "flag_meanings": "missing complete failed",
        },
    )


def _write_coordinates(group: zarr.Group, dims: set[str], coords: Mapping[str, Any]) -> None:
    inside = {name: value for name, value in coords.items() if set(value[0]) <= dims}
    for name, (own, values, attributes) in inside.items():
        compressors = None if values.dtype.kind == "T" else [Crc32cCodec()]
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=values.dtype,
            compressors=compressors,
            chunk_key_encoding=_KEYS,
            dimension_names=own,
            attributes=dict(attributes),
        )
        array[...] = values
    others = [name for name, (own, _, _) in inside.items() if own != (name,)]
    if others:
        group.attrs["coordinates"] = " ".join(others)


def _write_variable(group: zarr.Group, variable: Variable, cut: Layout, values: np.ndarray | None) -> None:
    attributes = {"long_name": variable.long_name, "units": variable.units, **(variable.attrs or {})}
    if variable.before is not None:
        attributes["before_onset"] = variable.before
    if variable.optional:
        attributes["optional"] = 1
    if variable.keep_bits:
        attributes["keep_bits"] = variable.keep_bits
    array = group.create_array(
        variable.name,
        shape=cut.shape,
        shards=cut.shards,
        chunks=cut.chunks,
        dtype=variable.dtype,
        fill_value=variable.fill_value,
        compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()],
        chunk_key_encoding=_KEYS,
        dimension_names=variable.dims,
        attributes=attributes,
    )
    if values is not None:
        if values.shape != cut.shape:
            raise RunError(f"{variable.path} is {cut.shape}, the static values are {values.shape}")
        array[...] = values


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {key: leaf for name in value for key, leaf in _flat(value[name], f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}
