"""The viewer as a widget of a notebook: the same module, style sheet and document as in a page.

It needs the extra `notebook`, and nothing of it is imported before a widget is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from analysis.common import pairing
from analysis.viewer.payload import BUDGET, payload
from analysis.viewer.still import still

if TYPE_CHECKING:
    import anywidget


def view(several: pairing.Runs, *, samples: int | None = None, budget: int | None = BUDGET) -> anywidget.AnyWidget:
    """The viewer of a run, or of several side by side, in a notebook: pictures and tracks under one time axis.

    samples: at most so many; None is as many as fit. budget: bytes of its data, which the notebook keeps with the cell;
    None leaves nothing out. The widget also carries a page without scripts, for where no widget can be shown. Raises
    ImportError without anywidget, and RunError for a run without a complete sample.
    """
    widget_class()
    return widget(payload(several, samples=samples, budget=budget))


def widget(document: Mapping[str, Any], text: str = "") -> anywidget.AnyWidget:
    """The widget that shows a document of `payload`. text: what stands where nothing but text can."""
    made = widget_class()(payload=json.dumps(document))
    made.still, made.text = still(document), text
    return made


@lru_cache(maxsize=1)
def widget_class() -> type[anywidget.AnyWidget]:
    """The class of the widget. Raises ImportError that says what to install."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError(
            "the viewer in a notebook needs anywidget: pip install 'denoise-trace[notebook]'; `trace view` shows the "
            "same in a browser without it"
        ) from error

    class Viewer(anywidget.AnyWidget):
        """The viewer. payload: the document of `analysis.viewer.payload` as JSON text, synchronised."""

        _esm = (files("analysis.viewer") / "viewer.js").read_text(encoding="utf-8")
        _css = (files("analysis.viewer") / "viewer.css").read_text(encoding="utf-8")
        payload = traitlets.Unicode("").tag(sync=True)
        still, text = "", ""

        def _repr_mimebundle_(self, **how: Any) -> Any:
            """As of any widget, and the page without scripts for where no widget can be shown."""
            made = super()._repr_mimebundle_(**how)
            data, metadata = made if isinstance(made, tuple) else (made or {}, {})
            more = {"text/html": self.still} | ({"text/plain": self.text} if self.text else {})
            return {**data, **more}, metadata

    return Viewer
