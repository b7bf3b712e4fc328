"""Where checkpoints come from: a shipped folder, a local folder, or the model hub. Every way this can fail is one
`CheckpointError` that names the file, the hub id and what to type.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interventions.naming import closest, unknown
from tracer.denoisers.base import CheckpointError
from tracer.denoisers.hub import INDEX, check_variant, download
from tracer.store.places import nearest_path

EMBEDDED = Path(__file__).parent / "embedded"
"""What ships; `--checkpoint embedded:NAME` names a folder in it, and each family's own is embedded:<family>."""
PREFIX = "embedded:"
DEFAULT = "dit"
"""The family where neither a family nor a checkpoint is named."""
OFFLOADS = ("model", "sequential", "spread")
"""How a pipeline that does not fit on a GPU is run on it (`pipeline.placing`)."""
ANY = "pipeline"
"""The family that runs any diffusers pipeline by its own call."""


def find(
    checkpoint: str | None,
    family: str,
    classes: tuple[str, ...],
    parts: Sequence[str] = (),
    variant: str | None = None,
) -> tuple[Path, str]:
    """The folder of a checkpoint and the name it is recorded under; None is embedded:<family>.

    parts: folders of a pipeline that are fetched from the hub. variant: of the weights; one that the checkpoint has not
    is refused.
    `classes` are the `_class_name`s of a fitting `model_index.json` or `config.json` (of an embedded one the
    transformer's is enough); anything else is refused.
    """
    if is_embedded(checkpoint):
        return _embedded((checkpoint or PREFIX + family).removeprefix(PREFIX), family, classes)
    assert checkpoint is not None
    folder, name = folder_of(checkpoint, parts, variant)
    kind = class_name(folder)
    if kind not in classes:
        raise CheckpointError(
            f"{checkpoint} is a {kind or 'folder without model_index.json or config.json'}, "
            f"not a {family} checkpoint (expected one of: {', '.join(classes)}); {_instead(kind)}"
        )
    roots = [folder, *(folder / part for part in parts)]
    check_variant(variant, (file.name for root in roots if root.is_dir() for file in root.iterdir()))
    return folder, name


def folder_of(checkpoint: str, parts: Sequence[str], variant: str | None = None) -> tuple[Path, str]:
    """A folder of this machine, or the snapshot of these parts of a hub repository; and the name it is recorded under.

    Raises CheckpointError.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder, folder.name
    _no_file(folder)
    if folder.is_absolute() or not is_hub_id(checkpoint):
        near = closest(checkpoint, [PREFIX + name for name in embedded_names()]) or nearest_path(folder)
        meant = f"did you mean {near}? " if near else ""
        raise CheckpointError(
            f"no checkpoint folder {checkpoint!r}: {meant}give a folder that holds model_index.json or config.json, "
            "or a hub id such as facebook/DiT-XL-2-256"
        )
    return download(checkpoint, parts, variant), checkpoint


def _no_file(path: Path) -> None:
    """Refuse weights in a file of their own, as the original DiT and SD3 are also given out."""
    if path.is_file():
        raise CheckpointError(
            f"{path} is one file: give the folder of a diffusers pipeline, which holds model_index.json, or its hub id "
            "such as facebook/DiT-XL-2-256"
        )


def recognised(checkpoint: str | None) -> str:
    """The family that reads a checkpoint, by the `_class_name` in its folder: one of its own, else "pipeline" for what
    has a model_index.json; "dit" for None, and for one that is not there or says nothing, which loading it then
    explains. Raises CheckpointError for a network that no family reads.
    """
    if checkpoint is None:
        return DEFAULT
    if is_embedded(checkpoint):
        folder = EMBEDDED / checkpoint.removeprefix(PREFIX)
    else:
        folder = Path(checkpoint).expanduser()
        _no_file(folder)
        if not folder.is_dir() and is_hub_id(checkpoint):
            folder = download(checkpoint, ())
    kind = class_name(folder) or class_name(folder / "transformer")
    if kind is None:
        return DEFAULT
    if (family := _readers().get(kind)) is not None:
        return family
    if (folder / INDEX[0]).is_file():
        return ANY
    raise CheckpointError(f"{checkpoint} is a {kind}, one network; {_instead(kind)}")


def recorded(where: str) -> str:
    """The name that a place is recorded under: of a file or folder of this machine its own, without the path to it."""
    path = Path(where).expanduser()
    return path.name if path.exists() or path.is_absolute() or where.startswith((".", "~")) else where


def is_hub_id(checkpoint: str) -> bool:
    """Whether a checkpoint that is no folder may be a hub id: owner/name, with @revision after it or not."""
    return not checkpoint.startswith((".", "~", "/")) and checkpoint.partition("@")[0].count("/") == 1


def _readers() -> dict[str, str]:
    """`_class_name` -> family."""
    from tracer.denoisers.registry import MODELS

    return {kind: name for name, family in MODELS.items() for kind in family.kinds}


def _instead(kind: str | None) -> str:
    """What to type for a checkpoint of this kind."""
    readers = _readers()
    if kind in readers:
        return f"type --model {readers[kind]}"
    if str(kind).endswith("Pipeline"):
        return f"type --model {ANY}, or leave --model out"
    return (
        "of networks alone DiT and SD3 are read: name the pipeline that it belongs to with --checkpoint, and this one "
        "with --part transformer=FOLDER"
    )


def is_embedded(checkpoint: str | None) -> bool:
    """Whether it is one that ships: None, or embedded:NAME."""
    return checkpoint is None or checkpoint.startswith(PREFIX)


def embedded_names() -> list[str]:
    """The checkpoints that ship, as they are named behind embedded:."""
    return sorted(path.name for path in EMBEDDED.iterdir() if any(path.rglob("*.safetensors")))


def _embedded(name: str, family: str, classes: tuple[str, ...]) -> tuple[Path, str]:
    folder = EMBEDDED / name
    shipped = embedded_names()
    if name not in shipped:
        if name == family:
            raise CheckpointError(f"the embedded {family} weights are not installed at {folder}: reinstall the package")
        raise CheckpointError(unknown(f"no embedded checkpoint {PREFIX + name}", name, shipped, prefix=PREFIX))
    kind = class_name(folder) or class_name(folder / "transformer")
    if kind not in classes:
        raise CheckpointError(
            f"{PREFIX + name} is a {kind}, not a {family} checkpoint: use another --model or --checkpoint"
        )
    return folder, f"embedded {name}"


def embedded_megabytes(name: str) -> float:
    """Size of the weights of an embedded checkpoint in MB, 0 where there is none."""
    return sum(file.stat().st_size for file in (EMBEDDED / name).rglob("*.safetensors")) / 1e6


def class_name(folder: Path) -> str | None:
    """`_class_name` of a pipeline or model folder; None if it is neither. Raises CheckpointError."""
    for file in ("model_index.json", "config.json"):
        if (folder / file).is_file():
            kind = read_json(folder / file).get("_class_name")
            if kind is not None and not isinstance(kind, str):
                raise CheckpointError(
                    f"{folder / file} names {kind} as its class, code of its own that would have to be run: it is "
                    "refused. Load it yourself and hand it to tracer.from_pipeline"
                )
            return kind
    return None


def read_json(file: Path) -> dict[str, Any]:
    """An object in a JSON file. Raises CheckpointError."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return found
