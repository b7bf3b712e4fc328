"""The configuration a store was made with: kept as JSON, hashed, and compared before anything is continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracer.store.find import locate, root_attributes
from tracer.store.remote import place
from tracer.store.schema import RUN, RunError, Schema
from tracer.store.seals import canonical, config_hash
from tracer.store.shards import schema_at


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration a run or a sweep was made with."""
    given = place(path)
    directory = given.parent if given.suffix == ".zarr" else given
    return json.loads(root_attributes(directory, schema_at(directory))["config"])


def check_resume(
    path: str | Path,
    config: Mapping[str, Any],
    schema: Schema = RUN,
    options: Callable[[Mapping[str, Any]], str] = lambda old: "",
) -> None:
    """Raise RunError naming every key in which `config` differs from the store's own (old -> new).

    options: the options to type so that `config` becomes the store's, "" where they are not known.
    Also raised where there is no store of this schema, or one of a version that can be read but no longer continued.
    """
    directory = locate(path, schema=schema)
    attributes = root_attributes(directory, schema)
    check_writable(directory, schema, attributes)
    if config_hash(config) == attributes["config_hash"]:
        return
    made = json.loads(attributes["config"])
    old, new = _flat(made), _flat(json.loads(canonical(config)))
    changes = [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]
    raise RunError(
        f"{directory} was made with another configuration ({'; '.join(changes)}); "
        f"resume it with {options(made) or 'the options it was made with'}, or choose another --out"
    )


def check_writable(directory: Path, schema: Schema, attributes: Mapping[str, Any]) -> None:
    """Raise RunError for a store that an older version made in a way that is only read today."""
    if attributes["schema_version"] < schema.writable_from:
        raise RunError(
            f"{directory} was made by an older version (schema {attributes['schema_version']}): it can be read, "
            "not continued; choose another --out"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {key: leaf for name in value for key, leaf in _flat(value[name], f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}
