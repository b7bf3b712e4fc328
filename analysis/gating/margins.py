"""How much is too much: the margins of `trace gate`, in units that mean something. Reasons: docs/howto/gate.md.

They were fixed before the rates in benchmarks/gate_rates.md were measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from interventions.errors import InputError
from interventions.naming import unknown

MARGINS: dict[str, float] = {"picture": 0.1, "score": 0.25, "share": 0.1, "set": 0.0625}
"""Kind of evidence -> the largest loss that passes.

picture: mean distance to the clean picture, over that between unrelated clean pictures. score: mean drop of a score,
over its standard deviation among clean pictures; at a quarter the clean one of two unrelated pictures scores higher in
57 of 100 pairs. share: drop of a share of yes/no answers. set: squared distance of the means of all features, over
their variance among clean pictures; a quarter of a standard deviation, squared.
"""
LEVEL = 0.05
"""Of every one-sided test, after Holm's correction over arms."""
FEWEST = 8
"""Samples below which nothing is claimed: a mean of fewer skewed values is not judged by a t test."""
POWER = 0.9
"""With which the samples that are asked for would decide, if what was seen is so."""
FINISHED = "finished"
"""Evidence of its own: the share of samples that did not diverge."""


class GateError(InputError):
    """A gate was asked for something that there is not; the message says what there is."""


def margins_with(changed: Mapping[str, float]) -> dict[str, float]:
    """The margins, some of them changed. Raises GateError for one that there is not, or that is not positive."""
    for name, value in changed.items():
        if name not in MARGINS:
            raise GateError(unknown(f"no margin {name!r}", name, MARGINS))
        if not value > 0:
            raise GateError(f"margin {name}={value:g}: give a number above 0, for example {name}={MARGINS[name]:g}")
    return MARGINS | dict(changed)
