"""Memory that is freed stays with the process: counted in page faults, which the kernel does."""

import os
import subprocess
import sys

import pytest

TAKEN_AGAIN = """
import resource, sys
import numpy as np
from tracer.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(64 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(64 << 20, np.uint8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (64 << 20))
"""


def _touched_anew(asked, **environment):
    """How many blocks of 64 MiB the system handed out anew while ten were taken, one after the other (pages may be
    handed out several at once, so less than that is possible without it, too).
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", TAKEN_AGAIN, asked]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_not_handed_out_anew_unless_the_environment_has_its_own_way():
    kept, stock = _touched_anew("kept"), _touched_anew("stock")
    if stock < 0.01:
        pytest.skip("this C library or system keeps freed memory by itself")
    assert kept < stock / 5
    assert _touched_anew("kept", MALLOC_ARENA_MAX="2") > stock / 2
