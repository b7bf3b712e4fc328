"""Arms that other distributions bring: a name that is typed as a spec is, and what stands behind it.

    [project.entry-points."denoise_trace.arms"]
    my-cache = "my_package.arms:MY_CACHE"

The value is what `tracer.arm` made, or a function without arguments that makes one.
"""

from typing import Any

from interventions.errors import spec_error
from interventions.families.base import Intervention
from interventions.registry import Registry

ARMS: Registry[Any] = Registry("arm", {})
"""Arms by name; a distribution adds its own in group denoise_trace.arms."""


def registered(head: str) -> Intervention | None:
    """The arm that a spec's head names; None for no name of one. Raises SpecError where what it names is no arm."""
    if head not in ARMS:
        return None
    value = ARMS[head]
    made = value if isinstance(value, Intervention) else value()
    if not isinstance(made, Intervention):
        raise spec_error(f"arm {head!r}", f"its entry point gives a {type(made).__name__}, no arm", "R4S32")
    return made
