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
DRAWING = ("diffusers", "transformers")
"""Those of them that draw bars of their own."""
ENVIRONMENT = {
    "DIFFUSERS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
"""What the libraries read when they are imported."""


def silence() -> None:
    """For the rest of this process, which is ours; what somebody set in the environment is left as it is."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _ignore_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside it only, for a process that is somebody else's: levels, bars and filters are put back afterwards.

    A library that is imported inside keeps the level that it takes from the environment.
    """
    levels = {name: logging.getLogger(name).level for name in LIBRARIES if name in sys.modules}
    drawing = [name for name in DRAWING if _bars(name, False)]
    try:
        with warnings.catch_warnings():
            _ignore_warnings()
            for name in levels:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in drawing:
            _bars(name, True)


def _ignore_warnings() -> None:
    for library in LIBRARIES:
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")


def _bars(library: str, wanted: bool) -> bool:
    """Switch the bars of a library, where it is imported, on or off; returns whether they were on."""
    own = sys.modules.get(f"{library}.utils.logging")
    if own is None:
        return False
    shown = bool(own.is_progress_bar_enabled())
    (own.enable_progress_bar if wanted else own.disable_progress_bar)()
    return shown
