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


def bundle(run: xr.DataTree) -> Any:
    """The MIME bundle of a run: a widget where anywidget is installed, a page without scripts, text."""
    document = payload(run, samples=SAMPLES, budget=BUDGET)
    try:
        return widget(document, repr(run))._repr_mimebundle_()
    except ImportError:
        return {"text/html": stills.still(document), "text/plain": repr(run)}


def still(run: xr.DataTree) -> str:
    """The page without scripts of a run."""
    return stills.still(payload(run, samples=SAMPLES, budget=BUDGET))
