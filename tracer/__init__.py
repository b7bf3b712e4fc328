"""Run paired clean and masked denoising trajectories and write them down.

`trace` runs (the Python face of `trace run`), `open_run` reads, `load` gives a denoiser, `Denoiser` is the protocol for
your own. Samplers are in `tracer.sampling`, the loop in `tracer.trajectory`, the files in `tracer.store`. No statistics
here: that is `analysis`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.denoisers import CheckpointError, Denoiser, Sample, load
    from tracer.run import trace
    from tracer.sampling import SamplerError
    from tracer.store import RunError, open_run, open_sweep

_HOMES = {
    "CheckpointError": "denoisers",
    "Denoiser": "denoisers",
    "Sample": "denoisers",
    "load": "denoisers",
    "SamplerError": "sampling",
    "RunError": "store",
    "open_run": "store",
    "open_sweep": "store",
    "trace": "run",
}
__all__ = [
    "CheckpointError",
    "Denoiser",
    "RunError",
    "Sample",
    "SamplerError",
    "load",
    "open_run",
    "open_sweep",
    "trace",
]


def __getattr__(name: str) -> object:
    """Import a public name's home when it is first asked for: `trace --help` must not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tracer' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
