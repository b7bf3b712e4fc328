"""The one error that a wrong spec, layout or graph raises.

It stands alone so that every file of the package can raise it; users know it as `interventions.SpecError`.
"""


class SpecError(ValueError):
    """An intervention that cannot be what was asked; the message names the part, the reason and a valid example."""


def spec_error(part: object, reason: str, example: str) -> SpecError:
    """Return (not raise) a `SpecError` in the one form they all have: what, why, and what to type instead."""
    return SpecError(f"{part}: {reason} (for example {example})")
