"""From a recorded run to labelled numbers: every measure is a function of a run, with a figure, a sentence and a
table beside it.

`analysis.growth(run)` returns an `xarray.Dataset`; `analysis.growth.figure(dataset)`, `.sentence(dataset)` and
`.table(dataset)` present it. Nothing heavy is imported before a measure is used, and nothing here ever imports
torch: a run is read from its store alone.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

MEASURES = (
    "bands",
    "compare",
    "counterfactual",
    "decompose",
    "growth",
    "impulse",
    "null",
    "quality",
    "report",
    "sinks",
    "steps",
    "verdict",
)
NAMES = {"Verdict": "rule", "decide": "rule"}

__all__ = [*MEASURES, *NAMES]


class _Measure(types.ModuleType):
    """A module that is called like the function it is named after."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


class _Package(types.ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in MEASURES and type(value) is types.ModuleType:
            value.__class__ = _Measure  # the import system binds submodules here, however they were imported
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in MEASURES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in NAMES:
        return getattr(importlib.import_module(f"{__name__}.{NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
