"""The distribution `denoise-trace-example`, as another project would install it: `installed` puts it on the path."""

import contextlib
import importlib
import sys
from pathlib import Path
from unittest import mock

FOLDER = Path(__file__).parent


@contextlib.contextmanager
def installed(*registries, folder=FOLDER):
    """Put the distributions of a folder on the path; these registries look for them anew, and forget them after."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "path", [str(folder), *sys.path]))
        stack.enter_context(mock.patch.dict(sys.modules))
        importlib.invalidate_caches()
        stack.callback(importlib.invalidate_caches)
        for registry in registries:
            stack.enter_context(mock.patch.object(registry, "_entry_points", None))
            stack.enter_context(mock.patch.object(registry, "_registered", dict(registry._registered)))
        yield
