"""Networks that look at pictures: CLIP scores, human preference, perceptual distance, a judge.

`score(run)` measures a run's decoded pictures by metrics and keeps the values beside the run. `METRICS` is their list,
and other distributions add to it by the entry point group `denoise_trace.metrics`. Each file beside this one is a
metric, or what several share. What the scores say about an arm is `analysis.quality`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
