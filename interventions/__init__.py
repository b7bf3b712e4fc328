"""What can be done to attention, and the one place where it is done.

`parse` turns a spec string into a frozen `Intervention`; with a `TokenLayout` and a seed a graph becomes a mask, and
`attend` runs a model under it. Graph tools: `density`, `solve_density`, `graph_statistics`. What needs torch or scipy
is imported on first use, so reading specs stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from interventions.errors import SpecError
from interventions.families import Intervention
from interventions.graphs import density
from interventions.layout import TokenLayout
from interventions.spec import parse

if TYPE_CHECKING:
    from interventions.graph_summary import graph_statistics
    from interventions.seam.attend import attend
    from interventions.seam.mass import attention_entropy, attention_mass
    from interventions.seam.sites import SeamError
    from interventions.solve import solve_density

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
    "SeamError": "interventions.seam.sites",
    "attend": "interventions.seam.attend",
    "attention_entropy": "interventions.seam.mass",
    "attention_mass": "interventions.seam.mass",
    "graph_statistics": "interventions.graph_summary",
    "solve_density": "interventions.solve",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for."""
    if name in _ON_FIRST_USE:
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
