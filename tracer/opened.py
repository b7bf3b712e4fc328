"""An opened run that shows itself in a notebook, and knows the command that makes it again.

`tracer.open_run` gives a `Run`: the tree of `tracer.store.open_run`, with that command as the attribute `command`.
What it shows is made by `analysis`, which is named here as text and imported when something is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import xarray as xr

from tracer.command import with_command
from tracer.store import RUN
from tracer.store import open_run as open_stored


class Run(xr.DataTree):
    """A run as a lazy `xarray.DataTree` that shows itself in Jupyter: pictures, arms, answers, the command.

    Selections and copies of it are of this class and show themselves, too. What is computed from it by
    `map_over_datasets` or arithmetic is a plain DataTree. A group of it, and whatever no view can be made of, shows
    itself as any DataTree does; so does all under `xarray.set_options(display_style="text")`.
    """

    __slots__ = ()

    def _repr_mimebundle_(self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> Any:
        """The viewer where anywidget is installed, and a page without scripts; xarray's own if there is neither."""
        shown = self._shown("bundle")
        return shown or {"text/plain": repr(self), "text/html": super()._repr_html_()}

    def _repr_html_(self) -> str:
        """The page that needs no script; xarray's own where it cannot be made."""
        return self._shown("still") or super()._repr_html_()

    def _shown(self, how: str) -> Any:
        """What the function `how` of the viewer makes of this run; None where it can make nothing."""
        try:
            a_run = self.parent is None and self.attrs.get("schema") == RUN.name
            if not a_run or xr.get_options()["display_style"] == "text" or _in_a_terminal():
                return None
            return getattr(import_module("analysis.viewer.notebook"), how)(self)
        except Exception:  # a look at a run never stops a notebook
            return None


def _in_a_terminal() -> bool:
    """Whether this is IPython in a terminal, which asks for everything and prints the text."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and shell.display_formatter.active_types == ["text/plain"]


def open_run(path: str | Path | None = None) -> Run:
    """A run as a lazy DataTree with dask chunks equal to its shards, which shows itself in Jupyter.

    path: a run directory or its trace.zarr, here or at an address such as s3://bucket/run; None takes the newest under
    ./runs. Every sample that is not complete reads as the fill value (NaN for floats); `status` says which. Scores of
    its pictures are groups `/scores/<metric>`. Its attribute `command` is what makes the run again. A run of version 1
    gets the coordinates of version 2 in memory. Raises RunError when there is no such run, and when its metadata,
    coordinates or masks are not what was written; reading a shard that is not what was committed raises it too.
    """
    tree = with_command(open_stored(path))
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    return cast(Run, Run.from_dict(groups, name=tree.name))
