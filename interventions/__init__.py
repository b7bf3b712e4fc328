"""What can be done to attention, and the one place where it is done.

`parse` turns a spec string into a frozen `Intervention`; with a `TokenLayout` and a seed a graph becomes a mask, and
`attend` runs a model under it. Graph tools: `density`, `solve_density`, `graph_statistics`. What needs torch or scipy
is imported on first use, so reading specs stays quick.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from interventions.errors import SpecError
from interventions.families import Intervention
from interventions.layout import TokenLayout
from interventions.spec import parse
from interventions.topology import density

if TYPE_CHECKING:
    from interventions.attend import attend
    from interventions.mass import attention_entropy, attention_mass
    from interventions.sites import SeamError
    from interventions.solve import solve_density
    from interventions.statistics import graph_statistics

__all__ = [
    "Intervention",
    "SeamError",
    "SpecError",
    "TokenLayout",
    "attend",
    "attention_entropy",
    "attention_mass",
    "density",
    "graph_statistics",
    "parse",
    "solve_density",
]

_ON_FIRST_USE = {
    "SeamError": "interventions.sites",
    "attend": "interventions.attend",
    "attention_entropy": "interventions.mass",
    "attention_mass": "interventions.mass",
    "graph_statistics": "interventions.statistics",
    "solve_density": "interventions.solve",
}


class _Package(ModuleType):
    """This package; its name `attend` is the function, also after the file `attend.py` was imported by itself."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ON_FIRST_USE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for."""
    if name in _ON_FIRST_USE:
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
