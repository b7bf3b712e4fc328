"""Fetches a checkpoint from the model hub: the parts of it that are loaded, each in one format, and nothing else.

How much that is gets said before, and whether the disk has room for it is asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tracer.denoisers.base import CheckpointError
from tracer.denoisers.weight_files import PAPER, SHARDS, WEIGHTS, chosen_format
from tracer.progress import human_bytes, reading_progress, tell_reading

INDEX = ("model_index.json", "config.json")
UNREAD = {
    ".bin", ".safetensors", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".xml", ".pt", ".pth", ".ot",
    ".gguf", ".flashpack", ".tflite", ".mlpackage", ".zip", ".tar", ".gz", ".npz", ".py", ".mp4", ".webp",
}  # fmt: skip
"""Endings of files that are not read: weights of other frameworks and under other names, code, pictures."""
SAID = 1e7
"""A download of so many bytes is announced."""


def download(hub_id: str, parts: Sequence[str], variant: str | None = None) -> Path:
    """The local snapshot of a hub repository with these parts of a pipeline, fetched if need be.

    hub_id: owner/name, or owner/name@revision for a branch, tag or commit. variant: of the weights, where a part has
    it. Raises CheckpointError.
    """
    name, revision = split(hub_id)
    with _answered(name, revision):
        sizes = _listed(name, revision)
        if sizes is None:
            return _fetched_before(name, revision)
        return _fetched(name, revision, {file: sizes[file] for file in needed(sizes, parts, variant)})


def download_file(hub_id: str, choose: Callable[[Sequence[str]], str]) -> Path:
    """One file of a hub repository, chosen among the names of all; offline among those that were fetched before.

    Raises CheckpointError.
    """
    name, revision = split(hub_id)
    with _answered(name, revision):
        sizes = _listed(name, revision)
        before = _fetched_before(name, revision) if sizes is None else None
        names = sorted(str(path.relative_to(before)) for path in before.rglob("*")) if before else sorted(sizes or ())
        file = choose(names)
        if file not in names:
            raise CheckpointError(f"{hub_id} holds no {file}; it holds {', '.join(names[:10])}")
        return (before or _fetched(name, revision, {file: (sizes or {})[file]})) / file


def _fetched(name: str, revision: str | None, sizes: Mapping[str, int]) -> Path:
    """The snapshot with these files, told by their bytes."""
    import huggingface_hub

    size = _announced(name, revision, sizes)
    options: dict[str, Any] = {"tqdm_class": _told(size)} if size else {}
    return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(sizes), **options))


@contextmanager
def _answered(name: str, revision: str | None) -> Iterator[None]:
    """Turns what the hub says of a repository into a CheckpointError with what to type."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its licence on its hub page, then `hf auth login` (or set HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r}: leave @{revision} out, or see its page") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"no hub repository {name!r} (or it is private): check the spelling") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HFValidationError, OSError) as error:
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise CheckpointError(
            f"{name} is not in the local hub cache and the hub cannot be reached: on a machine with network type "
            f"`{command}`, or give --checkpoint a local folder"
        ) from error


def split(hub_id: str) -> tuple[str, str | None]:
    """owner/name@revision -> (owner/name, revision or None)."""
    name, _, revision = hub_id.partition("@")
    return name, revision or None


def _listed(name: str, revision: str | None) -> dict[str, int] | None:
    """The files of a repository and their bytes; None where the hub cannot be reached. Raises what the hub says of the
    repository.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.model_info(name, revision=revision, files_metadata=True).siblings or ()
        return {file.rfilename: file.size or 0 for file in found}
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise
    except Exception:  # of the network, in the words of whichever library speaks to it
        return None


def _fetched_before(name: str, revision: str | None) -> Path:
    """The folder of what was fetched of a repository, maybe not all that is needed. Raises LocalEntryNotFoundError."""
    import huggingface_hub

    # without patterns it would want all files of the repository, of which we fetch a part
    return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[]))


def _announced(name: str, revision: str | None, sizes: Mapping[str, int]) -> int:
    """Says how much is fetched, and returns it. Raises CheckpointError where the disk has no room for it."""
    import huggingface_hub
    from huggingface_hub import constants

    missing = [
        size
        for file, size in sizes.items()
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, file, revision=revision), str)
    ]
    cache = place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    total, free = sum(missing), shutil.disk_usage(place).free
    if total > free:
        raise CheckpointError(
            f"{name}: {human_bytes(total)} have to be fetched and {cache} has {human_bytes(free)} free: make room, or "
            "set HF_HOME to a folder on another disk"
        )
    if total >= SAID:
        tell_reading(f"fetching {human_bytes(total)} of {name} in {len(missing)} files to {cache}")
    return total


def _told(total: int) -> type:
    """A bar for `snapshot_download` that draws nothing and tells our own how many bytes are there."""
    from tqdm import tqdm

    tell, done = reading_progress(), dict[int, int]()

    class Told(tqdm):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.counts_bytes = named.get("unit") == "B"
            super().__init__(*arguments, **{**named, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.counts_bytes:  # the bytes that came and the bytes that were written have a bar each
                done[id(self)] = done.get(id(self), 0) + int(n or 0)
                tell(min(max(done.values()), total), total)

    return Told


def needed(files: Iterable[str], parts: Sequence[str], variant: str | None = None) -> list[str]:
    """Which files of a repository are loaded: the index, and of every part its weights in one format and all else.

    A repository without `model_index.json` is one network, whose files lie at its top. Raises CheckpointError where
    parts are asked for in a variant that none of them has.
    """
    paths = [PurePosixPath(file) for file in files]
    whole = PurePosixPath(INDEX[0]) in paths
    folders: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        if path.suffix.lower() not in PAPER and not path.name.startswith("."):
            folders.setdefault(str(path.parent), []).append(path)
    top = [path for path in folders.pop(".", []) if path.name in INDEX or not whole]
    taken = [top, *(folders.get(part, []) for part in parts)]
    check_variant(variant, (path.name for folder in taken if parts for path in folder))
    return sorted(str(path) for folder in taken for path in _one_format(folder, variant))


class VariantError(CheckpointError):
    """No weights are of the variant that was asked for."""


def check_variant(variant: str | None, names: Iterable[str]) -> None:
    """Raise VariantError where no file of these names has weights of the variant that is asked for."""
    there = {match["variant"] for name in names if (match := WEIGHTS.fullmatch(name))}
    if variant is not None and there and variant not in there:
        known = ", ".join(sorted(each for each in there if each))
        raise VariantError(
            f"variant {variant!r}: no weights are called so; " + (f"there are {known}" if known else "leave it out")
        )


def _one_format(paths: Sequence[PurePosixPath], variant: str | None) -> list[PurePosixPath]:
    """The files of a folder without the weights that are not read (other formats, variants, frameworks)."""
    matches = {path: match for path in paths if (match := WEIGHTS.fullmatch(path.name))}
    chosen = chosen_format(matches.values(), variant)
    matches |= {path: match for path in paths if (match := SHARDS.fullmatch(path.name))}
    kept = [path for path, match in matches.items() if (match["variant"], match["format"]) == chosen]
    return [*kept, *(path for path in paths if path not in matches and path.suffix.lower() not in UNREAD)]
