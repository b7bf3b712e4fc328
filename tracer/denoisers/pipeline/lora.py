"""LoRA weights on a pipeline, by diffusers and peft: found, read without running code, and every one in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.denoisers.base import CheckpointError
from tracer.denoisers.checkpoints import is_hub_id, recorded
from tracer.denoisers.fingerprint import fingerprint
from tracer.denoisers.hub import download_file
from tracer.denoisers.pipeline.index import INSTALL, Index
from tracer.denoisers.weights import LOADING, check_file
from tracer.quiet import quiet

NAMES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
"""As diffusers saves them; taken where a folder holds several files."""
SUFFIXES = (".safetensors", ".bin")
FACTORS = re.compile(r"(lora_A|lora_B|lora[._]down|lora[._]up|lora_linear_layer\.down|lora_linear_layer\.up)\.weight")
"""The two factors of each weight that a LoRA changes, in the words of peft, diffusers and kohya."""


@dataclass(frozen=True)
class Lora:
    """where: as it was typed. file: that holds the weights. scale: they are added times this."""

    where: str
    file: Path
    scale: float

    def described(self) -> dict[str, Any]:
        """What is recorded."""
        sha256 = fingerprint(self.file.parent, [self.file.name])
        return {"id": recorded(self.where), "sha256": sha256, "scale": self.scale}


def found_loras(index: Index, asked: Sequence[str]) -> list[Lora]:
    """The files of `WHERE` or `WHERE=SCALE`, fetched if need be. Raises CheckpointError."""
    if not asked:
        return []
    if not hasattr(index.pipeline, "load_lora_weights"):
        raise CheckpointError(f"lora: a {index.name} takes none; leave it out")
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise CheckpointError(f"lora needs peft: {INSTALL}") from error
    return [_found(text) for text in asked]


def _found(text: str) -> Lora:
    where, _, scale = text.rpartition("=")
    if not where:
        where, scale = text, "1"
    try:
        value = float(scale)
    except ValueError as error:
        raise CheckpointError(f"lora {text!r}: behind = comes a number, for example {where}=0.8") from error
    path = Path(where).expanduser()
    if path.is_file():
        file = path
    elif path.is_dir():
        file = path / chosen_file([each.name for each in path.iterdir() if each.is_file()], where)
    elif is_hub_id("/".join(where.split("/")[:2])) and not path.is_absolute():
        owner, name, *inside = where.split("/")
        file = download_file(f"{owner}/{name}", lambda names: "/".join(inside) or chosen_file(names, where))
    else:
        raise CheckpointError(
            f"lora {where!r}: no such file or folder; a hub id is owner/name, or owner/name/FILE.safetensors"
        )
    return Lora(where, file, value)


def chosen_file(names: Sequence[str], where: str) -> str:
    """The one file with LoRA weights among these. Raises CheckpointError."""
    files = sorted(name for name in names if name.endswith(SUFFIXES) and "/" not in name)
    files = [name for name in NAMES if name in files][:1] or files
    if len(files) == 1:
        return files[0]
    if not files:
        raise CheckpointError(f"lora {where}: it holds no .safetensors or .bin file")
    raise CheckpointError(f"lora {where}: it holds {', '.join(files)}; name one, {where}/{files[0]}")


def add_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Put them on the pipeline's networks, side by side, each times its scale. Raises CheckpointError.

    The weights stay beside those that they change, as `pipe.load_lora_weights` leaves them.
    """
    names = [f"lora{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        check_file(lora.file)
        try:
            with quiet():
                pipe.load_lora_weights(lora.file.parent, weight_name=lora.file.name, adapter_name=name)
                wanted = _factors(pipe, lora)
        except LOADING as error:
            what = f"{type(pipe).__name__}: {error}"
            raise CheckpointError(f"lora {lora.where} does not load on this {what}") from error
        placed = sum(f".{name}." in key for part in _networks(pipe) for key, _ in part.named_parameters())
        if placed != wanted or not placed:
            raise CheckpointError(
                f"lora {lora.where}: {placed} of its {wanted} weights have a place in this {type(pipe).__name__}; it "
                "was made for another model"
            )
    if loras:
        pipe.set_adapters(names, [lora.scale for lora in loras])
        for part in _networks(pipe):
            part.eval().requires_grad_(False)


def _factors(pipe: Any, lora: Lora) -> int:
    """How many factors the file holds, in the pipeline's own reading of it."""
    state = pipe.lora_state_dict(lora.file.parent, weight_name=lora.file.name)
    state = state[0] if isinstance(state, tuple) else state
    return sum(FACTORS.search(key) is not None for key in state)


def _networks(pipe: Any) -> list[Any]:
    import torch

    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
