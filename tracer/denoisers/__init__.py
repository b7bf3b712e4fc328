"""The networks a trajectory can run on, behind one small protocol.

`load("dit")` gives the embedded trained checkpoint, on every machine; `load("dit", checkpoint=...)` a larger one from a
folder or the hub. `MODELS` lists the families, one file each. Anything that has the attributes and the two methods of
`Denoiser` can be traced too: the tests hand in exact Gaussian systems.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
