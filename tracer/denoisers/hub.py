"""Fetches a checkpoint from the model hub: the parts of it that are loaded, each in one format, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from tracer.denoisers.base import CheckpointError
from tracer.denoisers.weight_files import PAPER, WEIGHTS, chosen_format

INDEX = ("model_index.json", "config.json")


def download(hub_id: str, parts: Sequence[str]) -> Path:
    """The local snapshot of a hub repository with these parts of a pipeline, fetched if need be.

    hub_id: owner/name, or owner/name@revision for a branch, tag or commit. Raises CheckpointError.
    """
    import huggingface_hub
    from huggingface_hub import errors

    name, _, revision = hub_id.partition("@")
    at = revision or None
    try:
        listed = _listed(name, at)
        if listed is None:  # what was fetched before is there
            return Path(huggingface_hub.snapshot_download(name, revision=at, local_files_only=True))
        return Path(huggingface_hub.snapshot_download(name, revision=at, allow_patterns=needed(listed, parts)))
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


def _listed(name: str, revision: str | None) -> list[str] | None:
    """The files of a repository; None where the hub cannot be reached. Raises what the hub says of the repository."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.list_repo_files(name, revision=revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise
    except Exception:  # of the network, in the words of whichever library speaks to it
        return None


def needed(files: Iterable[str], parts: Sequence[str]) -> list[str]:
    """Which files of a repository are loaded: the index, and of every part its weights in one format and all else.

    A repository without `model_index.json` is one network, whose files lie at its top.
    """
    paths = [PurePosixPath(file) for file in files]
    whole = PurePosixPath(INDEX[0]) in paths
    folders: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        if path.suffix.lower() not in PAPER and not path.name.startswith("."):
            folders.setdefault(str(path.parent), []).append(path)
    chosen = [path for path in folders.pop(".", []) if path.name in INDEX or not whole]
    chosen = [*_one_format(chosen), *(path for part in parts for path in _one_format(folders.get(part, [])))]
    return sorted(map(str, chosen))


def _one_format(paths: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The files of a folder without the weights that are not read (other formats, variants, frameworks)."""
    matches = {path: match for path in paths if (match := WEIGHTS.fullmatch(path.name))}
    variant, suffix = chosen_format(matches.values())
    other = (".bin", ".safetensors", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb", ".xml", ".pt", ".pth")
    kept = [path for path, match in matches.items() if (match["variant"], match["format"]) == (variant, suffix)]
    return [*kept, *(path for path in paths if path not in matches and path.suffix not in other)]
