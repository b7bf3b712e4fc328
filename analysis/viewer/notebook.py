"""What an opened run shows of itself in a notebook: the viewer where anywidget is, else a page without scripts.

`tracer.opened` names this module as text. A repr is to be there within seconds, so that a long answer is left out here
and says which call gives it.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from analysis.viewer import still as stills
from analysis.viewer.payload import payload
from analysis.viewer.widget import widget

SAMPLES, BUDGET = 8, 400_000
"""Of a run that shows itself; `analysis.view` gives more."""


LARGE = 20_000
"""Arms times samples times steps beyond which the answers are left out; they read what was recorded of every step."""
LEFT_OUT = {
    "label": "Answers",
    "text": "not asked here, for this run is large: `analysis.view(run)` shows them.",
}


def bundle(run: xr.DataTree) -> Any:
    """The MIME bundle of a run: a widget where anywidget is installed, a page without scripts, text."""
    document = shown(run)
    try:
        return widget(document, repr(run))._repr_mimebundle_()
    except ImportError:
        return {"text/html": stills.still(document), "text/plain": repr(run)}


def still(run: xr.DataTree) -> str:
    """The page without scripts of a run."""
    return stills.still(shown(run))


def shown(run: xr.DataTree) -> dict[str, Any]:
    """The document of a run that shows itself."""
    large = run["metrics"].sizes["arm"] * run["metrics"].sizes["sample"] * run["metrics"].sizes["step"] > LARGE
    document = payload(run, samples=SAMPLES, budget=BUDGET, answers=not large)
    if large:
        document["runs"][0]["sentences"].insert(1, LEFT_OUT)
    return document
