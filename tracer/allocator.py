"""The C library's allocator, told to keep what is freed: each layer of a network takes and frees the same large blocks.
And Python's collector of cycles, told to look less often: what is imported makes objects by the million and no garbage.

By default glibc gives blocks of this size back to the system each time, and the pages are cleared anew when they are
touched; that is a quarter of the time of a small network on a CPU (docs/performance.md). Nothing is imported here but
the standard library.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT_BYTES = 1 << 30
NEW_OBJECTS = 50_000
"""After so many the collector looks at the new ones; Python's own 700 are a seventh of the time of a short run."""


def keep_freed_memory() -> None:
    """For the rest of this process, which is ours: up to 1 GiB that is freed stays with it.

    Nothing happens where the C library is another one, or where the environment already sets it (MALLOC_..., as in
    mallopt(3)).
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # of a C library without mallopt
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        library.mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def collect_less_often() -> None:
    """For the rest of this process, which is ours: cycles among new objects are looked for every `NEW_OBJECTS`, among
    all of them seldom. Where the collector is off it stays off.
    """
    gc.set_threshold(NEW_OBJECTS, 10, 100)
