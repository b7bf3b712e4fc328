"""The distribution `denoise-trace-example`, as another project would install it: `installed` puts it on the path."""

import contextlib
import importlib
import sys
from pathlib import Path
from unittest import mock

from analysis.measure import MEASURES
from classify_clip.scores.metric import METRICS
from interventions.changes.registry import ARMS
from interventions.families import FAMILIES
from tracer.denoisers.registry import MODELS
from tracer.samplers.registry import SAMPLERS

FOLDER = Path(__file__).parent


REGISTRIES = (ARMS, FAMILIES, MODELS, SAMPLERS, MEASURES, METRICS)


@contextlib.contextmanager
def installed(*registries, folder=FOLDER):
    """Put the distributions of a folder on the path; every registry looks for them anew, and forgets them after.

    `registries` are those of a test's own. All others are covered too: whichever is read for the first time inside
    would otherwise know the distribution for the rest of the session. Modules of the folder are forgotten, no others:
    what torch has registered cannot be imported twice.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "path", [str(folder), *sys.path]))
        importlib.invalidate_caches()
        stack.callback(importlib.invalidate_caches)
        stack.callback(_forget, Path(folder))
        for registry in {id(each): each for each in (*REGISTRIES, *registries)}.values():
            stack.enter_context(mock.patch.object(registry, "_entry_points", None))
            stack.enter_context(mock.patch.object(registry, "_registered", dict(registry._registered)))
        yield


def _forget(folder):
    for path in folder.iterdir():
        for name in [name for name in sys.modules if name.split(".")[0] == path.stem]:
            del sys.modules[name]
