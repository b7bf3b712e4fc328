"""From a recorded run to labelled numbers: every measure is a function of a run, with a figure, a sentence and a
table beside it.

`analysis.growth(run)` returns an `xarray.Dataset`; `analysis.growth.figure(dataset)`, `.sentence(dataset)` and
`.table(dataset)` present it. Nothing heavy is imported before a measure is used, and nothing here ever imports
torch: a run is read from its store alone.
"""

from __future__ import annotations

import importlib
from typing import Any

HOMES = {
    **dict.fromkeys(
        ("bands", "compare", "counterfactual", "curves", "decompose", "depth", "growth", "impulse", "matched", "sinks",
         "steps"), "measures"),
    "verdict": "answer", "null": "answer",
}  # fmt: skip
NAMES = {"Verdict": "answer.rule", "decide": "answer.rule", "report": "page", "quality": "quality"}
__all__ = [*HOMES, *NAMES]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        module = importlib.import_module(f"analysis.{HOMES[name]}.{name}")
        function = getattr(module, name)
        for part in ("table", "sentence", "figure"):
            setattr(function, part, getattr(module, part, None))
        return function
    if name in NAMES:
        return getattr(importlib.import_module(f"analysis.{NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def module_of(name: str) -> Any:
    """The file of a measure."""
    return importlib.import_module(f"analysis.{HOMES[name]}.{name}" if name in HOMES else f"analysis.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
