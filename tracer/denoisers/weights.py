"""Loads networks from folders and answers for their weights: all are there, none is left over, none is NaN.

diffusers and transformers fill in what a file lacks with random numbers and only say so in a log; here that is refused.
Weights are read as safetensors, else with torch's `weights_only`, so that no file runs code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tracer.denoisers.base import CheckpointError
from tracer.denoisers.checkpoints import read_json
from tracer.denoisers.weight_files import SHARDS, WEIGHTS, chosen_format

if TYPE_CHECKING:
    import torch

LOADING = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError, SafetensorError)
"""What diffusers and transformers raise for files that are broken or of another kind."""
SHOWN_KEYS = 4


def load_network(
    kind: Any, folder: Path, what: str, device: torch.device, dtype: torch.dtype, variant: str | None = None
) -> Any:
    """The diffusers network of class `kind` in a folder, in eval mode, without gradients.

    variant: of the weights, such as fp16, where the folder has it.

    Raises CheckpointError for a folder that does not load, naming the keys that are missing, unexpected or of another
    shape, and for weights that are NaN or infinite, naming the tensor.
    """
    from diffusers.utils import is_accelerate_available

    network = load_weights(kind, folder, what, variant, torch_dtype=dtype, low_cpu_mem_usage=is_accelerate_available())
    network = network.to(device)
    check_finite(network, folder)
    return network.eval().requires_grad_(False)


def load_text_encoders(
    folder: Path, parts: Sequence[str], dtype: torch.dtype, variant: str | None = None
) -> dict[str, Any]:
    """Part -> the transformers network of a pipeline folder, of the class that `model_index.json` names; checked as
    `load_network` does. Raises CheckpointError.
    """
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    encoders = {}
    for part in parts:
        name = (index.get(part) or [None, None])[1]
        kind = getattr(transformers, str(name), None)
        if kind is None:
            raise CheckpointError(f"{folder / 'model_index.json'} names {name!r} as {part}: no class of transformers")
        encoders[part] = load_weights(kind, folder / part, f"a {name}", variant, dtype=dtype)
        check_finite(encoders[part], folder / part)
    return encoders


def load_weights(
    kind: Any, folder: Path, what: str, variant: str | None = None, *, left_over: bool = False, **options: Any
) -> Any:
    """What `kind.from_pretrained` makes of a folder, with these options besides; every key must find its place.

    kind: a class of networks of diffusers or transformers. what: it is, in words. left_over: weights that it has no
    place for may lie there too. Raises CheckpointError.
    """
    names = [match for file in folder.iterdir() if (match := WEIGHTS.fullmatch(file.name))] if folder.is_dir() else []
    chosen = chosen_format(names, variant)
    options["use_safetensors"] = chosen[1] == "safetensors"
    if chosen[0]:
        options["variant"] = chosen[0]
    try:
        for name in names:
            if (name["variant"], name["format"]) == chosen:
                check_file(folder / name.string)
        check_shards(folder, chosen, what)
        network, told = kind.from_pretrained(folder, output_loading_info=True, **options)
    except LOADING as error:
        raise CheckpointError(f"{folder} does not load as {what}: {error}") from error
    spare = set(told.get("unexpected_keys", ())) if left_over else {name for name, _ in network.named_buffers()}
    refuse_keys(told, folder, what, spare)
    return network


def check_shards(folder: Path, chosen: tuple[str | None, str], what: str) -> None:
    """Raise CheckpointError where the index of a checkpoint in shards promises a tensor that its shard does not hold.

    diffusers believes the index, and leaves such a tensor empty or random.
    """
    files = [match for file in folder.iterdir() if (match := SHARDS.fullmatch(file.name))]
    for index in (each.string for each in files if (each["variant"], each["format"]) == chosen):
        promised: dict[str, set[str]] = {}
        for name, shard in read_json(folder / index).get("weight_map", {}).items():
            promised.setdefault(shard, set()).add(name)
        lacking = {name for shard, names in promised.items() for name in names - tensor_names(folder / shard)}
        refuse_keys({"missing_keys": lacking}, folder, what)


def tensor_names(file: Path) -> set[str]:
    """The names of the tensors in a file with weights; their values are not read."""
    import torch

    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return set(opened.keys())
    return set(torch.load(file, map_location="meta", weights_only=True))


def check_file(file: Path) -> None:
    """Look at the head of a file with weights: that it was not cut short, and that a pickle holds nothing but weights.

    Raises SafetensorError, and CheckpointError for a pickle that would run code; it is not run to find out.
    """
    import torch

    if file.suffix == ".safetensors":
        safe_open(file, "pt")  # diffusers would read all of a file that was cut short as text
        return
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except (ValueError, RuntimeError):  # of another age, or cut short: torch.load says so, with weights_only
        return
    if foreign:
        raise CheckpointError(
            f"{file} is a pickle that holds more than weights ({', '.join(sorted(foreign))}), which may run code: it "
            "was not opened. Take a checkpoint with .safetensors files, or save its weights again, alone"
        )


def refuse_keys(told: Mapping[str, Any], folder: Path, what: str, spare: Iterable[str] = ()) -> None:
    """Raise CheckpointError where a loader says that keys are missing, unexpected or mismatched.

    spare: keys that may lie there, such as buffers that the network computes by itself.
    """
    allowed = set(spare)
    wrong = {
        "missing": sorted(told.get("missing_keys", ())),
        "unexpected": sorted(key for key in told.get("unexpected_keys", ()) if key not in allowed),
        "of another shape": sorted(str(key[0]) for key in told.get("mismatched_keys", ())),
    }
    parts = [
        f"{len(keys)} {kind} ({', '.join(keys[:SHOWN_KEYS])}{', ...' if len(keys) > SHOWN_KEYS else ''})"
        for kind, keys in wrong.items()
        if keys
    ]
    if parts:
        raise CheckpointError(
            f"the weights in {folder} are not those of {what} with its config.json: keys {'; '.join(parts)}. "
            "Give a folder whose weights and config.json belong together"
        )


def check_finite(network: Any, folder: Path) -> None:
    """Raise CheckpointError naming the first tensor of a network that holds NaN or infinite values."""

    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not _finite(tensor):
            hint = "; in float16 weights above 65504 are infinite: use --dtype bfloat16" if _is_half(tensor) else ""
            raise CheckpointError(
                f"the weights in {folder} are broken: {name} holds NaN or infinite values{hint}. Fetch them again"
            )


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite: their sum says so at the speed of the memory, unless it overflows."""
    import torch

    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def _is_half(tensor: Any) -> bool:
    return str(tensor.dtype) == "torch.float16"
