from .arms import arm_coordinates as arm_coordinates
from .errors import FailureError as FailureError
from .errors import InputError as InputError
from .errors import RunError as RunError
from .errors import SpecError as SpecError
from .errors import TraceError as TraceError
from .families import FAMILIES as FAMILIES
from .families.base import Graph as Graph
from .families.base import Intervention as Intervention
from .graph_summary import graph_statistics as graph_statistics
from .graphs import density as density
from .layout import TokenLayout as TokenLayout
from .registry import Registry as Registry
from .scope import Scope as Scope
from .seam.attend import attend as attend
from .seam.mass import attention_entropy as attention_entropy
from .seam.mass import attention_mass as attention_mass
from .seam.sites import SeamError as SeamError
from .segments import Segment as Segment
from .solve import solve_density as solve_density
from .spec import parse as parse

__all__ = [
    "FAMILIES",
    "FailureError",
    "Graph",
    "InputError",
    "Intervention",
    "Registry",
    "RunError",
    "Scope",
    "SeamError",
    "Segment",
    "SpecError",
    "TokenLayout",
    "TraceError",
    "arm_coordinates",
    "attend",
    "attention_entropy",
    "attention_mass",
    "density",
    "graph_statistics",
    "parse",
    "solve_density",
]
