"""A `DiffusionPipeline` from a folder or the hub, whatever its family: `model_index.json` says what it is.

Its networks are loaded one by one, so that weights that are missing, of another shape or NaN are refused by name, not
filled in; all else is `DiffusionPipeline.from_pretrained`. No code that comes with a checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tracer.denoisers.base import CheckpointError
from tracer.denoisers.checkpoints import class_name, folder_of, read_json, recorded
from tracer.denoisers.fingerprint import fingerprint, fingerprinted
from tracer.denoisers.hub import INDEX, VariantError, check_variant
from tracer.denoisers.pipeline.index import INSTALL, Index, read_index
from tracer.denoisers.pipeline.lora import add_loras, found_loras
from tracer.denoisers.pipeline.placing import check_offload, decode_in_tiles, place
from tracer.denoisers.weights import LOADING, check_finite, load_weights
from tracer.quiet import quiet


def load_pipeline(
    checkpoint: str,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    revision: str | None = None,
    lora: Sequence[str] = (),
    parts: Mapping[str, str] | None = None,
    offload: str | None = None,
    vae_tiling: bool = False,
    without: Sequence[str] = (),
) -> tuple[Any, dict[str, Any]]:
    """A pipeline on its device, in eval mode, without gradients; and what is recorded of where it comes from.

    checkpoint: a folder, or owner/name[@revision] of the hub. variant: of the weights, such as fp16, where a part has
    it. lora: files, folders or hub ids, each with =SCALE behind it or not. parts: name of a component -> the folder or
    hub id that it comes from instead. offload: "model", "sequential" or "spread" (`placing`). vae_tiling: decode in
    tiles and one sample at a time. without: components that are left out.
    Raises CheckpointError, before weights are read where that can be known.
    """
    named = f"{checkpoint}@{revision}" if revision and "@" not in checkpoint else checkpoint
    parts, device = dict(parts or {}), torch.device(device)
    check_offload(offload, device)
    folder, name = folder_of(named, ())
    index = read_index(folder, checkpoint)
    index.check_names(parts, "part")
    index.check_names(without, "without")
    own = [each for each, kind in index.components.items() if kind and each not in parts and each not in without]
    folder, _ = folder_of(named, own, variant)
    _check_folders(folder, own, variant, name)
    others = {each: _other(each, where, index, variant) for each, where in parts.items()}
    loras = found_loras(index, lora)

    with fingerprinted(folder, (INDEX[0], *own)) as sha256, quiet():
        networks = {
            each: _network(index, each, others.get(each, folder / each), dtype, variant)
            for each in (*own, *others)
            if issubclass(index.components[each], torch.nn.Module)  # type: ignore[arg-type]
        }
        pipe = _assembled(folder, index, networks, without)
    add_loras(pipe, loras)
    if vae_tiling:
        decode_in_tiles(pipe)
    place(pipe, device, offload)
    return pipe, _provenance(name, sha256(), index, variant, without, parts, others, loras, vae_tiling)


def _check_folders(folder: Path, names: Sequence[str], variant: str | None, checkpoint: str) -> None:
    """Raise CheckpointError unless every component lies in its folder, some with weights of the variant asked for."""
    if lacking := [name for name in names if not (folder / name).is_dir()]:
        raise CheckpointError(
            f"{checkpoint} is not a whole pipeline, {', '.join(lacking)} missing in {folder}: "
            "give the folder that `pipeline.save_pretrained` or `hf download` writes"
        )
    check_variant(variant, (file.name for name in names for file in (folder / name).iterdir()))


def _other(name: str, where: str, index: Index, variant: str | None) -> Path:
    """The folder of a component that comes from elsewhere, alone or out of a pipeline; plain without the variant."""
    try:
        folder, _ = folder_of(where, (name,), variant)
    except VariantError:
        folder, _ = folder_of(where, (name,))
    folder = folder / name if (folder / INDEX[0]).is_file() else folder
    wanted = index.components[name]
    assert wanted is not None
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = class_name(folder) or (config.get("architectures") or [None])[0]
    if kind not in (None, wanted.__name__) or not folder.is_dir():
        raise CheckpointError(f"part {name}={where} is a {kind or 'folder that is not there'}, not a {wanted.__name__}")
    return folder


def _network(index: Index, name: str, folder: Path, dtype: torch.dtype, variant: str | None) -> Any:
    from transformers import PreTrainedModel

    kind: Any = index.components[name]
    if not hasattr(kind, "from_pretrained"):
        raise CheckpointError(f"{folder} is a {kind.__name__}, which cannot be loaded alone")
    if issubclass(kind, PreTrainedModel):  # often a part of a larger model, whose other weights lie beside it
        network = load_weights(kind, folder, f"a {kind.__name__}", variant, left_over=True, dtype=dtype)
    else:
        network = load_weights(kind, folder, f"a {kind.__name__}", variant, torch_dtype=dtype)
    check_finite(network, folder)
    return network.eval().requires_grad_(False)


def _assembled(folder: Path, index: Index, networks: Mapping[str, Any], without: Sequence[str]) -> Any:
    """The pipeline with these networks; schedulers, tokenizers and the like are read by diffusers."""
    from diffusers import DiffusionPipeline

    nothing = [name for name, kind in index.components.items() if kind is None]
    given = dict(networks) | dict.fromkeys((*nothing, *without))
    try:
        return DiffusionPipeline.from_pretrained(folder, **given)
    except LOADING as error:
        hint = f". {INSTALL} brings what reads such tokenizers" if "tiktoken" in str(error) else ""
        raise CheckpointError(f"{folder} does not load as a {index.name}: {error}{hint}") from error


def _provenance(
    name: str,
    sha256: str,
    index: Index,
    variant: str | None,
    without: Sequence[str],
    parts: Mapping[str, str],
    others: Mapping[str, Path],
    loras: Sequence[Any],
    vae_tiling: bool,
) -> dict[str, Any]:
    """What is stored, and compared by --resume: everything that changes a number."""
    return (
        {"id": name, "sha256": sha256, "pipeline": index.name}
        | ({"variant": variant} if variant else {})
        | ({"without": sorted(without)} if without else {})
        | (
            {"parts": {each: {"id": recorded(parts[each]), "sha256": fingerprint(f)} for each, f in others.items()}}
            if others
            else {}
        )
        | ({"lora": [each.described() for each in loras]} if loras else {})
        | ({"vae_tiling": True} if vae_tiling else {})
    )
