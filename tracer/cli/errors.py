"""The one rule from errors to exit codes.

Exit 2: bad usage or bad input, one message, nothing written. Exit 1: a failure while running; what is complete stays
valid, and the message says how to go on. Never a traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import click

from interventions.errors import InputError

_INSTEAD: ContextVar[str | None] = ContextVar("instead", default=None)


@contextmanager
def going_on_by(command: str) -> Iterator[None]:
    """Inside it, whatever was begun is gone on with by this command: for one that runs other commands."""
    token = _INSTEAD.set(command)
    try:
        yield
    finally:
        _INSTEAD.reset(token)


@contextmanager
def answered(go_on: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Turn what is raised inside into an exit code and one message.

    `go_on` gives the command that goes on with what was begun, None while nothing has been written: an `InputError` is
    bad input before that and a failure after it. A termination signal is answered as Ctrl-C is.
    """

    def stop(signum: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        fail("stopped; complete samples are valid", _INSTEAD.get() or go_on())
    except InputError as error:
        if (command := go_on()) is None:
            raise click.UsageError(str(error)) from error
        fail(f"{type(error).__name__}: {error}", _INSTEAD.get() or command)
    except ModuleNotFoundError as error:
        if error.name in RUN_PACKAGES:
            raise click.UsageError(
                f"this needs {error.name}, which the base installation leaves out: pip install 'denoise-trace[run]'"
            ) from error
        fail(f"{type(error).__name__}: {error}", _INSTEAD.get() or go_on())
    except Exception as error:
        fail(f"{type(error).__name__}: {error}", _INSTEAD.get() or go_on())
    finally:
        signal.signal(signal.SIGTERM, previous)


RUN_PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "open_clip",
    "safetensors",
    "distributed",
    "greenlet",
)
"""What the extra `[run]` brings, by import name."""


def fail(message: str, go_on: str | None = None) -> NoReturn:
    """Exit 1 with a message and, where something was begun, the command that goes on with it."""
    click.echo(f"Error: {message}", err=True)
    if go_on:
        click.echo(f"What is complete stays valid. Go on with:  {_INSTEAD.get() or go_on}", err=True)
    raise SystemExit(1)
