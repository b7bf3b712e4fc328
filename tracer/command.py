"""The command that makes a run again, read off its configuration: not what was typed, but what it came to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interventions.changes.base import Change
from interventions.errors import SpecError
from interventions.spec import parse
from tracer.parameters import Parameter, words_of
from tracer.request import FLOOR_SAMPLES, parameters

if TYPE_CHECKING:
    import xarray as xr


def command_of(tree: xr.DataTree, config: Mapping[str, Any]) -> str:
    """`trace run ...` with every option that is not at its default. FILE stands for prompts that were in a file.

    A denoiser of somebody's own, and what has no option, is named in brackets behind it.
    """
    words, beyond = ["trace", "run"], []
    itself = config.get("pipeline_call")  # what a pipeline that runs itself was called with
    for name, parameter in parameters().items():
        if parameter.stored is None or not _said(parameter, config):
            continue
        value = config.get(parameter.stored, parameter.unsaid)
        if itself is not None and (name == "sampler" or (name == "guidance" and "guidance_scale" not in itself)):
            continue
        if name == "denoiser" and itself is not None and "sha256" in config["checkpoint"]:
            words += ["--model", "pipeline"]
        elif name == "denoiser" and itself is not None:
            told = ", ".join(["pipe", *(f"{each}={value!r}" for each, value in itself.items())])
            beyond.append(f"tracer.from_pipeline({told}) of a {config['checkpoint'].get('pipeline')}")
        elif name == "denoiser" and not _is_shipped(value):
            beyond.append(f"{value}: a denoiser of one's own, by tracer.trace")
        elif name == "checkpoint":
            words += _checkpoint(value, config)
        elif name in ("classes", "prompts"):
            words += _shown(name, tree)
        elif name == "arms":
            words += _arms(value, tree)
            beyond += _own(value, config)
        elif parameter.flag is None:
            beyond += [f"{name} {value}"] if value != parameter.default else []
        else:
            words += words_of(name, parameter, value)
    return shlex.join(words) + (f"  ({'; '.join(beyond)})" if beyond else "")


def with_command(tree: xr.DataTree) -> xr.DataTree:
    """The same tree; its attribute `command` is now the command that makes it again, "" where none can be read off."""
    try:
        command = command_of(tree, json.loads(tree.attrs["config"]))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):  # a configuration of another origin
        command = ""
    tree.attrs["command"] = command
    return tree


def _said(parameter: Parameter, config: Mapping[str, Any]) -> bool:
    """Whether the configuration has its value: under its key, or by leaving it out beside the record it is about."""
    return parameter.stored in config or (bool(parameter.beside) and parameter.fits(config.get("record", ())))


def _is_shipped(name: str) -> bool:
    from tracer.denoisers.registry import MODELS

    return name in MODELS


def _checkpoint(value: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Nothing for the model's own, `embedded:NAME` for another that ships, else its id (of a folder: its name)."""
    shown = str(value.get("id", ""))
    if shown == f"embedded {config.get('model')}":
        return []
    return ["--checkpoint", shown.replace("embedded ", "embedded:", 1)]


def _arms(names: Sequence[str], tree: xr.DataTree) -> list[str]:
    """Every arm but clean; the floor only where it was run on more samples than without being named."""
    from tracer.store import STATUS_MISSING, STATUS_UNASKED

    extent = np.asarray(tree["status"])[names.index("full")] if "full" in names else np.array([])
    named = extent.size > FLOOR_SAMPLES and not np.isin(extent, (STATUS_MISSING, STATUS_UNASKED)).any()
    typed = [word for name in names[1:] if name != "full" or named for word in (_flag(name), name)]
    return [*typed, *([] if "full" in names else ["--no-floor"])] or ["--mask", "full"]


def _flag(name: str) -> str:
    """`--mask` for what acts at the attention seam, `--arm` for a change of the network and for what no spec writes."""
    return "--mask" if _is_spec(name) and not isinstance(parse(name), Change) else "--arm"


def _own(names: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """What the arms that no spec writes are made of."""
    made = config.get("changes", {})
    return [
        f"{name}: an arm of one's own, made of {made[name]}" for name in names if name in made and not _is_spec(name)
    ]


def _is_spec(name: str) -> bool:
    try:
        parse(name)
    except SpecError:
        return False
    return True


def _shown(name: str, tree: xr.DataTree) -> list[str]:
    """Classes, or prompts, where they are not those that are taken without an option."""
    if name == "classes" and "class_label" in tree.coords:
        labels = _starts(tree, "class_label")
        period = next(k for k in range(1, len(labels) + 1) if labels[k:] == labels[:-k])
        in_turn = labels == list(range(len(labels)))
        return [] if in_turn else ["--classes", ",".join(map(str, labels[:period]))]
    if name == "prompts" and "prompt" in tree.coords:
        from tracer.prompts import load

        prompts = _starts(tree, "prompt")
        if prompts == [prompt.text for prompt in load("emoji", count=len(prompts))]:
            return []
        return ["--prompts", prompts[0] if len(set(prompts)) == 1 and " " in prompts[0] else "FILE"]
    return []


def _starts(tree: xr.DataTree, name: str) -> list[Any]:
    """The values of a coordinate of samples, one a start."""
    values = tree.coords[name].values.tolist()
    if "path" not in tree.coords:
        return values
    return [value for value, path in zip(values, tree.coords["path"].values, strict=True) if path == 0]
