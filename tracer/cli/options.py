"""Command line options made of data: the fields of `tracer.request.Request`; and those that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tracer.cli import completing
from tracer.parameters import Parameter
from tracer.request import parameters

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object; the rest goes to stderr.")
dry_run = click.option(
    "--dry-run",
    is_flag=True,
    help="Check, say what it would cost (evaluations, time, disk, memory), write nothing.",
)

weights = click.option(
    "--weights",
    multiple=True,
    metavar="METRIC=PATH",
    help="A metric's weight file or folder. Repeatable.",
    shell_complete=completing.metric_weights,
)
mask_seed = click.option(
    "--mask-seed", type=int, default=0, show_default=True, metavar="SEED", help=parameters()["mask_seed"].help
)


class StorePath(click.ParamType):
    """What is read: a path, or an address such as s3://bucket/run. `~` is expanded, which no shell does behind `=`."""

    name = "path"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Runs and sweeps, the newest first."""
        return completing.stores(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, or what stands for the address."""
        from tracer.store import place

        return place(value)


class OutPath(click.ParamType):
    """What is written: a path of this machine, never an address. `~` is expanded, which no shell does behind `=`."""

    name = "path"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Files and folders."""
        return completing.paths(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, or an error that says how results get to an address."""
        from tracer.store import RunError, local

        try:
            return local(value)
        except RunError as error:
            self.fail(str(error), param, ctx)


STORE, OUT = StorePath(), OutPath()


HEADINGS: dict[str, tuple[str, ...]] = {
    "What is run": ("denoiser", "checkpoint", "variant", "parts", "lora", "sites", "t5"),
    "Arms": ("arms", "mask_seed", "floor"),
    "Samples": ("samples", "classes", "prompts", "negative", "seed", "paths", "size", "moved"),
    "Sampling": ("steps", "sampler", "guidance", "noise", "call"),
    "What is kept": ("record", "frames", "word_layers"),
    "Where it goes": ("out", "resume", "dry_run", "as_json"),
    "Machine": ("device", "dtype", "batch_size", "vae_tiling", "offload", "workers", "scheduler"),
}
"""Under which heading the options of a run stand, by the fields of a `Request`."""


def request_options(*leave_out: str) -> Callable[[Callable], Callable]:
    """Give a command every option of a `Request`, in the order of its fields, but those named."""

    def decorate(command: Callable) -> Callable:
        for name, parameter in reversed(parameters().items()):
            if parameter.flag and name not in leave_out:
                command = option(name, parameter)(command)
        return command

    return decorate


def option(name: str, parameter: Parameter) -> Callable[[Callable], Callable]:
    """One field as a click option; it hands over what was typed, and the `Request` reads it."""
    assert parameter.flag is not None
    default = parameter.default
    how: dict[str, Any] = {
        "metavar": parameter.metavar or ("NAME" if parameter.choices else None),
        "help": _help(parameter),
    }
    if parameter.type is bool:
        how |= {"default": default, "metavar": None}
        how |= {} if "/" in parameter.flag else {"is_flag": True}
    elif parameter.multiple:
        how |= {"multiple": True}
    else:
        shown = ",".join(default) if parameter.many and default is not None else default
        how |= {"default": shown, "type": OUT if parameter.type is Path else parameter.type}
    how["shell_complete"] = _completer(name, parameter)
    how["show_default"] = how.get("default") is not None
    flags = [flag for flag in (parameter.flag, parameter.also) if flag]
    return click.option(*flags, name, **how)


COMPLETERS = {
    "arms": completing.specs_or_arms,
    "checkpoint": completing.checkpoints,
    "classes": completing.classes,
    "device": completing.names(completing.devices),
    "lora": completing.paths,
    "prompts": completing.paths,
}
"""What is offered for fields of a `Request` whose values are no list of names."""


def _completer(name: str, parameter: Parameter) -> completing.Completer | None:
    if parameter.choices is not None:
        return completing.names(parameter.choices, comma=parameter.many)
    return COMPLETERS.get(name)


def _help(parameter: Parameter) -> str:
    """The help text, with the names that may be typed."""
    if parameter.choices is None:
        return parameter.help
    *others, last = map(str, parameter.choices())
    names = f"{', '.join(others)} or {last}" if others else last
    return f"{parameter.help} One of {names}." if not parameter.many else f"{parameter.help} Any of {names}."
