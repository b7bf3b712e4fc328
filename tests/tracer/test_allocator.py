"""Memory that is freed stays with the process: read from the kernel's count of the pages that the process holds."""

import os
import subprocess
import sys

import pytest

FREED = """
import sys
import numpy as np
from pathlib import Path
from tracer.allocator import keep_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "kept":
    keep_freed_memory()
before = held()
block = np.ones(64 << 20, np.uint8)
taken = held()
del block
print((held() - before) / (taken - before))
"""


def _share_kept(asked, **environment):
    """Which share of a block of 64 MiB the process still holds after it is freed (huge pages change nothing in it)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FREED, asked]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_kept_unless_the_environment_has_its_own_way():
    if _share_kept("stock") > 0.5:
        pytest.skip("this C library keeps freed memory by itself")
    assert _share_kept("kept") > 0.9
    assert _share_kept("kept", MALLOC_ARENA_MAX="2") < 0.1
