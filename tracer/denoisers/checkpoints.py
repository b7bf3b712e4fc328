"""Where checkpoints come from: a shipped folder, a local folder, or the model hub. Every way this can fail is one
`CheckpointError` that names the file, the hub id and what to type.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from tracer.denoisers.base import CheckpointError

if TYPE_CHECKING:
    import torch

EMBEDDED = Path(__file__).parent / "embedded"
"""What ships; `--checkpoint embedded:NAME` names a folder in it, and each family's own is embedded:<family>."""
PREFIX = "embedded:"
LOADING = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError, SafetensorError)
"""What diffusers and transformers raise for files that are broken or of another kind."""


def find(checkpoint: str | None, family: str, classes: tuple[str, ...]) -> tuple[Path, str]:
    """The folder of a checkpoint and the name it is recorded under; None is embedded:<family>.

    `classes` are the `_class_name`s of a fitting `model_index.json` or `config.json` (of an embedded one the
    transformer's is enough); anything else is refused.
    """
    if is_embedded(checkpoint):
        return _embedded((checkpoint or PREFIX + family).removeprefix(PREFIX), family, classes)
    assert checkpoint is not None
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        name = folder.name
    elif folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1:
        raise CheckpointError(
            f"no checkpoint folder {checkpoint!r}: give a folder that holds model_index.json or config.json, "
            "or a hub id such as facebook/DiT-XL-2-256"
        )
    else:
        folder, name = download(checkpoint), checkpoint
    kind = class_name(folder)
    if kind not in classes:
        raise CheckpointError(
            f"{checkpoint} is a {kind or 'folder without model_index.json or config.json'}, "
            f"not a {family} checkpoint (expected one of: {', '.join(classes)})"
        )
    return folder, name


def load_network(kind: Any, folder: Path, what: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The diffusers network of class `kind` in a folder, in eval mode, without gradients. Raises CheckpointError."""
    from diffusers.utils import is_accelerate_available

    try:
        network = kind.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=is_accelerate_available())
    except LOADING as error:
        raise CheckpointError(f"{folder} does not load as {what}: {error}") from error
    return network.to(device).eval().requires_grad_(False)


def is_embedded(checkpoint: str | None) -> bool:
    """Whether it is one that ships: None, or embedded:NAME."""
    return checkpoint is None or checkpoint.startswith(PREFIX)


def _embedded(name: str, family: str, classes: tuple[str, ...]) -> tuple[Path, str]:
    folder = EMBEDDED / name
    shipped = sorted(path.name for path in EMBEDDED.iterdir() if any(path.rglob("*.safetensors")))
    if name not in shipped:
        if name == family:
            raise CheckpointError(f"the embedded {family} weights are not installed at {folder}: reinstall the package")
        known = ", ".join(PREFIX + each for each in shipped)
        raise CheckpointError(f"no embedded checkpoint {PREFIX + name}: there are {known}")
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
    """`_class_name` of a pipeline or model folder; None if it is neither."""
    for file in ("model_index.json", "config.json"):
        if (folder / file).is_file():
            try:
                return json.loads((folder / file).read_text()).get("_class_name")
            except json.JSONDecodeError as error:
                raise CheckpointError(f"{folder / file} is not valid JSON: {error}") from error
    return None


def download(hub_id: str) -> Path:
    """The local snapshot of a hub repository, fetched if need be."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, ignore_patterns=["*.bin", "*.ckpt", "*.msgpack"]))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{hub_id} is gated: accept its licence on its hub page, then `hf auth login` (or set HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"no hub repository {hub_id!r} (or it is private): check the spelling") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{hub_id} is not in the local hub cache and the hub cannot be reached: on a machine with network type "
            f"`hf download {hub_id}`, or give --checkpoint a local folder"
        ) from error


def fingerprint(folder: Path) -> str:
    """sha256 over the names and contents of the folder's weight and config files, in order of name."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors", ".json"} and p.is_file()):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
