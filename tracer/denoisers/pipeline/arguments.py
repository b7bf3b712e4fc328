"""From the options of a run to the arguments of a pipeline's own call; what the call does not take is refused by name,
before any weight is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interventions.naming import near_names
from tracer.denoisers.base import CheckpointError

FLAGS = {
    "prompt": "--prompts FILE",
    "negative_prompt": "--negative TEXT",
    "num_inference_steps": "--steps T",
    "guidance_scale": "--guidance W",
    "height": "--size HxW",
    "width": "--size HxW",
}
"""Arguments that have an option of their own."""
OURS = {
    "generator": "--seed chooses the noise",
    "latents": "--seed chooses the noise",
    "num_images_per_prompt": "--samples says how many",
    "num_videos_per_prompt": "--samples says how many",
    "output_type": "pictures are stored as pictures",
    "return_dict": "it changes no number",
    "callback_on_step_end": "every step is recorded",
    "callback_on_step_end_tensor_inputs": "every step is recorded",
}
"""Arguments that are not the user's here, and why."""


def call_arguments(
    pipeline: type,
    *,
    call: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
) -> dict[str, Any]:
    """The arguments for `pipeline.__call__` but the prompt. Raises CheckpointError for what it does not take.

    size: (height, width) of the pictures. negative: prompt. call: any other arguments, by name; @FILE is a picture.
    """
    takes = inspect.signature(pipeline.__call__).parameters
    for name in call or {}:
        _check(name, pipeline, list(takes)[1:])
    height, width = size or (None, None)
    asked = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "height": height,
        "width": width,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given:
        if name not in takes:
            raise CheckpointError(f"{FLAGS[name]}: a {pipeline.__name__} has no {name}. {_others(takes)}")
    given |= {name: _read(value) for name, value in (call or {}).items()}
    lacking = [
        name
        for name, parameter in list(takes.items())[1:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if lacking := [name for name in lacking if name not in given and name != "prompt"]:
        raise CheckpointError(
            f"a {pipeline.__name__} must be told {', '.join(lacking)}: --call {lacking[0]}=VALUE, for a picture "
            f"--call {lacking[0]}=@FILE; for anything else tracer.from_pipeline(pipe, {lacking[0]}=...)"
        )
    return given


def _read(value: Any) -> Any:
    """The picture of a file where an argument is @FILE, else the argument itself."""
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    from PIL import Image

    try:
        return Image.open(Path(value[1:]).expanduser()).convert("RGB")
    except OSError as error:
        raise CheckpointError(f"--call {value}: no picture can be read from this file: {error}") from error


def _check(name: str, pipeline: type, takes: list[str]) -> None:
    if name in FLAGS:
        raise CheckpointError(f"--call {name}: type {FLAGS[name]}")
    if name in OURS:
        raise CheckpointError(f"--call {name}: it cannot be given, {OURS[name]}")
    if name not in takes:
        near = near_names(name, takes)
        meant = f"did you mean {', '.join(near)}? " if near else ""
        raise CheckpointError(f"--call {name}: a {pipeline.__name__} has none; {meant}{_others(takes)}")


def _others(takes: Any) -> str:
    return f"Its call takes {', '.join(name for name in takes if name != 'self' and name not in OURS)}"
