"""The family `pipeline`: whatever diffusers pipeline a checkpoint is, run by its own call."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from interventions.errors import InputError
from tracer.denoisers.base import CheckpointError, Denoiser, ModelFamily
from tracer.denoisers.checkpoints import folder_of, is_embedded
from tracer.denoisers.images import Size
from tracer.denoisers.pipeline.arguments import call_arguments
from tracer.denoisers.pipeline.index import Index, read_index
from tracer.denoisers.pipeline.load import load_pipeline

NOTHING = "none"
"""In the place of a part that is left out."""
PLAIN = "a photo"
"""The prompt of a pipeline that is loaded for no run."""


def load_any(
    checkpoint: str | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    size: Size | None = None,
    negative: str | None = None,
    t5: bool | None = None,
    variant: str | None = None,
    lora: Sequence[str] = (),
    parts: Mapping[str, str] | None = None,
    offload: str | None = None,
    vae_tiling: bool = False,
    call: Mapping[str, Any] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    prompt: Callable[[], str] = lambda: PLAIN,
) -> Denoiser:
    """Any diffusers pipeline from a folder or the hub; `call` and what has an option of its own go to its own call.

    t5: False leaves the T5 of an SD3 out, "none" in the place of a part any other. prompt: gives the one that the
    pipeline is probed with, the first of the run; every sample brings its own. The rest is as in `load_pipeline` and
    `call_arguments`. Raises CheckpointError, also where the pipeline itself fails when it is called, and what
    `tracer.from_pipeline` raises.
    """
    from tracer.denoisers.pipeline.face import from_pipeline

    if checkpoint is None or is_embedded(checkpoint):
        raise CheckpointError(
            "--model pipeline runs a checkpoint's own pipeline: name a folder or hub id with --checkpoint. What is "
            "embedded is no pipeline: leave --model out"
        )
    folder, _ = folder_of(checkpoint, ())
    index = read_index(folder, checkpoint)
    sides = (size, size) if isinstance(size, int) else size
    arguments = call_arguments(index.pipeline, call=call, size=sides, negative=negative, steps=steps, guidance=guidance)
    if "prompt" in inspect.signature(index.pipeline.__call__).parameters:
        arguments["prompt"] = prompt()
    given = dict(parts or {})
    without = [name for name, where in given.items() if where == NOTHING]
    pipe, provenance = load_pipeline(
        checkpoint, device=device, dtype=dtype, variant=variant, lora=lora, offload=offload, vae_tiling=vae_tiling,
        parts={name: where for name, where in given.items() if where != NOTHING},
        without=(*t5_parts(index, t5), *without),
    )  # fmt: skip
    try:
        return from_pipeline(pipe, checkpoint=provenance, **arguments)
    except InputError:
        raise
    except Exception as error:
        if _is_ours(error):
            raise
        told = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise CheckpointError(
            f"the {index.name} fails when it is called with {told}: {type(error).__name__}: {error}. "
            "--call NAME=VALUE gives it other arguments"
        ) from error


def _is_ours(error: Exception) -> bool:
    """Whether it was raised in a file of this program, and not in the pipeline that was called.

    What a pipeline asks of torch goes through `__torch_function__` of ours, which says nothing of whose fault it is.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if frame.f_code.co_name != "__torch_function__"]
    return own[-1].f_globals.get("__name__", "").partition(".")[0] in ("tracer", "interventions")


def t5_parts(index: Index, wanted: bool | None) -> tuple[str, ...]:
    """What to leave out where T5 is not wanted. Raises CheckpointError where there is none, or it cannot be spared."""
    parts = ("text_encoder_3", "tokenizer_3")
    there = all(index.components.get(part) for part in parts)
    if wanted is None or (wanted and there):
        return ()
    if not index.name.startswith("StableDiffusion3"):
        raise CheckpointError(f"--t5/--no-t5: only an SD3 can do without its T5, and this is a {index.name}")
    if wanted:
        raise CheckpointError(f"--t5: this checkpoint has no {' and '.join(parts)}")
    return parts if there else ()


FAMILY = ModelFamily(
    name="pipeline",
    load=load_any,
    help="any diffusers pipeline, by its own call",
    checkpoints="any diffusers pipeline: see below",
    prompted=True,
)
