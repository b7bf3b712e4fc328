"""What can be done to attention, and the one place where it is done.

`parse` turns a spec string into a frozen `Intervention`; with a `TokenLayout` and a seed a graph becomes a mask, and
`attend` runs a model under it. Graph tools: `density`, `solve_density`, `graph_statistics`. What an arm is, as data:
`arm_coordinates`. A family of your own derives from `Graph` and is found in `FAMILIES`.

Reading specs needs numpy alone; what needs torch or scipy is imported when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
