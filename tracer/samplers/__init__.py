"""How a state moves from one noise level to the next: one file a sampler, each a `Sampler` value in `SAMPLERS`.

A sampler is a schedule of noise levels and a step as plain functions, with the closed form of its mean beside it. Noise
is handed in and no network is called here: that is `tracer.trajectory`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
