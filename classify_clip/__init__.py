"""The same interventions outside the diffusion run: classification, retrieval, one denoising pass, and picture scores.

`classify`, `retrieve` and `denoise` are sweeps over masks that write a store each; `depth` and `locality` look inside
one forward pass; `score` measures the pictures of a run by networks (`METRICS`) and keeps the values beside it. Nothing
is presented here: that is `analysis`, which reads what is written.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
