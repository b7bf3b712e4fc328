"""Run paired clean and masked denoising trajectories and write them down.

`trace` runs (the Python face of `trace run`; `Request` is its parameter list), `open_run` reads, `load` gives a
denoiser. `Denoiser` is the protocol for your own, `ModelFamily` and `Sampler` are what `MODELS` and `SAMPLERS` hold.
The loop is `tracer.trajectory`, the files are `tracer.store`. No statistics here: that is `analysis`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
