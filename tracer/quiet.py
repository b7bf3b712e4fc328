"""The libraries underneath, made silent: what they log, warn and draw says nothing to somebody who runs a trajectory.

What goes wrong in them is raised, and answered by us. Nothing is imported here but the standard library.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("accelerate", "diffusers", "huggingface_hub", "open_clip", "timm", "torch", "transformers")
ENVIRONMENT = {
    "DIFFUSERS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""What the libraries read when they are imported."""


def silence() -> None:
    """For the rest of this process, which is ours; what somebody set in the environment is left as it is."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _ignore_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside it only, for a process that is somebody else's: levels, bars and filters are put back afterwards."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.level for logger in loggers]
    given = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if given[name] is None})
    shown = _show_bars(False)
    try:
        with warnings.catch_warnings():
            _ignore_warnings()
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for name, value in given.items():
            if value is None:
                os.environ.pop(name, None)
        if shown:
            _show_bars(True)


def _ignore_warnings() -> None:
    for library in LIBRARIES:
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")


def _show_bars(wanted: bool) -> bool:
    """Switch the loading bars of transformers, where it is there, on or off; returns whether they were on."""
    transformers = sys.modules.get("transformers.utils.logging")
    if transformers is None:
        return False
    shown = bool(transformers.is_progress_bar_enabled())
    (transformers.enable_progress_bar if wanted else transformers.disable_progress_bar)()
    return shown
